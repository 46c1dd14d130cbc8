"""What the registry answers when it refuses: the codes of the distribution specification.

Source: OCI distribution-spec v1.1, "Error Codes".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum

JSON = "application/json"


class Answer(Enum):
    """A way to refuse: the HTTP status, the specification's code, and what the status line says.

    There is no line (None) where it says what is usual.
    """

    BLOB_UNKNOWN = 404, "BLOB_UNKNOWN"  # the repository has no such blob
    BLOB_UPLOAD_UNKNOWN = 404, "BLOB_UPLOAD_UNKNOWN"  # there is no such upload in the repository
    BLOB_UPLOAD_BUSY = 409, "BLOB_UPLOAD_INVALID"  # another request is writing to the same upload
    DIGEST_INVALID = 400, "DIGEST_INVALID"  # malformed, of an unknown algorithm, or not the content's
    MANIFEST_BLOB_UNKNOWN = 400, "MANIFEST_BLOB_UNKNOWN"  # it names a blob that the repository lacks
    MANIFEST_INVALID = 400, "MANIFEST_INVALID"  # the manifest is malformed
    MANIFEST_UNKNOWN = 404, "MANIFEST_UNKNOWN"  # the repository has no such manifest
    NAME_UNKNOWN = 404, "NAME_UNKNOWN"  # no such repository, and every name outside the prefix
    SIZE_INVALID = 400, "SIZE_INVALID"  # other bytes came than were announced
    TOO_LARGE = 413, "SIZE_INVALID"  # the body is larger than the registry takes
    PAGE_INVALID = 400, "PAGINATION_NUMBER_INVALID"  # the size of a page is not a number
    RANGE_INVALID = 416, "SIZE_INVALID"  # the byte range does not exist, or a chunk came out of order
    DENIED = 403, "DENIED"  # the registry may not be written
    MISDIRECTED = 421, "DENIED"  # the Host header names another registry
    NOT_ALLOWED = 405, "UNSUPPORTED"  # the method makes no sense for the path
    ENCODING_UNSUPPORTED = 415, "UNSUPPORTED"  # an encoding for transfer would change the digest
    TOO_MANY = 429, "TOOMANYREQUESTS"  # more of something than the registry takes
    STALLED = 408, "BLOB_UPLOAD_INVALID"  # the body stopped coming
    STORAGE_FULL = 507, "UNKNOWN", "no space left on device"  # by these words docker does not try again
    FAULT = 500, "UNKNOWN"  # the registry itself failed

    def __init__(self, status: int, code: str, reason: str | None = None) -> None:
        self.status = status
        self.code = code
        self.reason = reason


class Refusal(Exception):
    """An answer other than success. Raised by whatever handles a request."""

    def __init__(
        self,
        answer: Answer,
        message: str,
        *,
        detail: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.answer = answer
        self.message = message
        self.detail = detail
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Return the JSON document that says it to the client."""
        error: dict[str, object] = {"code": self.answer.code, "message": self.message}
        if self.detail is not None:
            error["detail"] = self.detail
        return json.dumps({"errors": [error]}).encode()


def name_unknown() -> Refusal:
    """Return what every name outside the prefix gets for an answer, as one that is not there."""
    return Refusal(Answer.NAME_UNKNOWN, "repository name not known to registry")

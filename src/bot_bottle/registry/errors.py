"""Error responses of the registry, with the codes of the distribution specification.

Source: OCI distribution-spec v1.1, "Error Codes".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum

JSON = "application/json"


class Answer(Enum):
    """A kind of error response: the HTTP status, the code of the specification, and the reason phrase.

    Without a reason phrase (None) it is the usual one.
    """

    BLOB_UNKNOWN = 404, "BLOB_UNKNOWN"  # the repository does not have the blob
    BLOB_UPLOAD_UNKNOWN = 404, "BLOB_UPLOAD_UNKNOWN"  # the repository does not have the upload
    BLOB_UPLOAD_BUSY = 409, "BLOB_UPLOAD_INVALID"  # another request is writing to the same upload
    DIGEST_INVALID = 400, "DIGEST_INVALID"  # malformed, of an unknown algorithm, or not the content's
    # it refers to a blob that the repository does not have
    MANIFEST_BLOB_UNKNOWN = 400, "MANIFEST_BLOB_UNKNOWN"
    MANIFEST_INVALID = 400, "MANIFEST_INVALID"  # the manifest is malformed
    MANIFEST_UNKNOWN = 404, "MANIFEST_UNKNOWN"  # the repository does not have the manifest
    NAME_UNKNOWN = 404, "NAME_UNKNOWN"  # the repository does not exist, or the name is outside the prefix
    SIZE_INVALID = 400, "SIZE_INVALID"  # the body does not have the announced length
    TOO_LARGE = 413, "SIZE_INVALID"  # the body is larger than the registry accepts
    PAGE_INVALID = 400, "PAGINATION_NUMBER_INVALID"  # the size of a page is not a number
    RANGE_INVALID = 416, "SIZE_INVALID"  # the byte range does not exist, or a chunk came out of order
    DENIED = 403, "DENIED"  # the registry is read-only
    MISDIRECTED = 421, "DENIED"  # the Host header names another registry
    NOT_ALLOWED = 405, "UNSUPPORTED"  # the path does not support the method
    ENCODING_UNSUPPORTED = 415, "UNSUPPORTED"  # an encoding for transfer would change the digest
    TOO_MANY = 429, "TOOMANYREQUESTS"  # a limit of the registry is reached
    STALLED = 408, "BLOB_UPLOAD_INVALID"  # no more of the body arrived
    # docker recognizes these words and does not try again
    STORAGE_FULL = 507, "UNKNOWN", "no space left on device"
    FAULT = 500, "UNKNOWN"  # the registry itself failed

    def __init__(self, status: int, code: str, reason: str | None = None) -> None:
        self.status = status
        self.code = code
        self.reason = reason


class Refusal(Exception):
    """An error response. Raised by the handlers of requests."""

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
        """Return the JSON document of the response."""
        error: dict[str, object] = {"code": self.answer.code, "message": self.message}
        if self.detail is not None:
            error["detail"] = self.detail
        return json.dumps({"errors": [error]}).encode()


def name_unknown() -> Refusal:
    """Return the response for an unknown repository, and for every name outside the prefix."""
    return Refusal(Answer.NAME_UNKNOWN, "repository name not known to registry")

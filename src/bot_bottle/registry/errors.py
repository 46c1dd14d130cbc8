"""What the registry answers when it refuses: the codes of the distribution specification.

Source: OCI distribution-spec v1.1, "Error Codes".
"""

from __future__ import annotations

import json
from collections.abc import Mapping

JSON = "application/json"


class Refusal(Exception):
    """An answer other than success. `status` is the HTTP status, `code` the specification's word for it."""

    status = 400
    code = "UNSUPPORTED"
    reason: str | None = None  # what the status line says; None: what is usual

    def __init__(
        self, message: str, *, detail: object = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Give the JSON document that tells the client."""
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            error["detail"] = self.detail
        return json.dumps({"errors": [error]}).encode()


class BlobUnknown(Refusal):
    """The repository has no such blob."""

    status, code = 404, "BLOB_UNKNOWN"


class BlobUploadInvalid(Refusal):
    """The upload cannot go on like this."""

    status, code = 400, "BLOB_UPLOAD_INVALID"


class BlobUploadUnknown(Refusal):
    """There is no such upload in the repository."""

    status, code = 404, "BLOB_UPLOAD_UNKNOWN"


class BlobUploadBusy(Refusal):
    """Another request is writing to the same upload."""

    status, code = 409, "BLOB_UPLOAD_INVALID"


class DigestInvalid(Refusal):
    """The digest is malformed, of an unknown algorithm, or not that of the content."""

    status, code = 400, "DIGEST_INVALID"


class ManifestBlobUnknown(Refusal):
    """The manifest names a blob that the repository has not."""

    status, code = 400, "MANIFEST_BLOB_UNKNOWN"


class ManifestInvalid(Refusal):
    """The manifest is malformed."""

    status, code = 400, "MANIFEST_INVALID"


class ManifestUnknown(Refusal):
    """The repository has no such manifest."""

    status, code = 404, "MANIFEST_UNKNOWN"


class NameInvalid(Refusal):
    """The repository's name is malformed."""

    status, code = 400, "NAME_INVALID"


class NameUnknown(Refusal):
    """There is no such repository. Every name outside the prefix gets this same answer."""

    status, code = 404, "NAME_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("repository name not known to registry")


class SizeInvalid(Refusal):
    """The length that was said is not the length that came."""

    status, code = 400, "SIZE_INVALID"


class TooLarge(Refusal):
    """The body is larger than the registry takes."""

    status, code = 413, "SIZE_INVALID"


class PageInvalid(Refusal):
    """The size of a page is not a number."""

    status, code = 400, "PAGINATION_NUMBER_INVALID"


class RangeInvalid(Refusal):
    """The byte range does not exist, or a chunk came out of order."""

    status, code = 416, "SIZE_INVALID"


class Denied(Refusal):
    """The registry may not be written."""

    status, code = 403, "DENIED"


class Misdirected(Refusal):
    """The request was not meant for this registry: its Host header names another."""

    status, code = 421, "DENIED"


class NotAllowed(Refusal):
    """The method makes no sense for the path."""

    status, code = 405, "UNSUPPORTED"


class EncodingUnsupported(Refusal):
    """The body is encoded for transfer, which would change its digest."""

    status, code = 415, "UNSUPPORTED"


class TooMany(Refusal):
    """More of something than the registry keeps."""

    status, code = 429, "TOOMANYREQUESTS"


class Stalled(Refusal):
    """The body stopped coming."""

    status, code = 408, "BLOB_UPLOAD_INVALID"


class StorageFull(Refusal):
    """The registry's disk is full. In these words docker knows that it is no use to try again."""

    status, code = 507, "UNKNOWN"
    reason = "no space left on device"


class Fault(Refusal):
    """The registry itself failed."""

    status, code = 500, "UNKNOWN"

"""The few requests that bot-bottle itself makes to a registry on loopback.

Source: OCI distribution-spec v1.1, "Checking if content exists", "Pushing blobs", "Pushing Manifests".
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from contextlib import closing
from urllib.parse import urlsplit

from bot_bottle.errors import ImageError, RegistryError
from bot_bottle.image.layers import CHUNK, Blob
from bot_bottle.image.spec import INDEX_TYPES, MANIFEST_TYPES, Digest
from bot_bottle.registry.image import Content

_TIMEOUT = 60.0  # seconds without an answer
_Body = bytes | Iterator[bytes]


class Client:
    """Client of the registry on 127.0.0.1:`port`. Raises RegistryError for every refusal."""

    def __init__(self, port: int, timeout: float = _TIMEOUT) -> None:
        self._port = port
        self._timeout = timeout

    def ping(self) -> None:
        """Check that the server answers as a registry."""
        self._ask("GET", "/v2/", wanted=(200,))

    def resolve(self, repository: str, tag: str) -> Digest:
        """Return the digest of the manifest that a tag refers to."""
        headers = {"Accept": ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))}
        answer = self._ask("HEAD", f"/v2/{repository}/manifests/{tag}", headers=headers, wanted=(200,))
        try:
            return Digest(answer.get("docker-content-digest", ""))
        except ImageError as error:
            raise RegistryError("the registry gave no digest", why=error.message) from error

    def push(self, repository: str, content: Content) -> None:
        """Push an image, except for blobs that the registry has."""
        self._blob(repository, content.config_digest, len(content.config), content.config)
        for digest, blob in content.layers:
            self._blob(repository, digest, blob.size, _pieces(blob))
        path = f"/v2/{repository}/manifests/{content.digest}"
        self._ask("PUT", path, content.manifest, {"Content-Type": content.media_type}, wanted=(201,))

    def _blob(self, repository: str, digest: Digest, size: int, body: _Body) -> None:
        path = f"/v2/{repository}/blobs/{digest}"
        if "docker-content-digest" in self._ask("HEAD", path, wanted=(200, 404)):
            return
        location = self._ask("POST", f"/v2/{repository}/blobs/uploads/", wanted=(202,)).get("location", "")
        target = urlsplit(location)
        query = f"{target.query}&" if target.query else ""
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        self._ask("PUT", f"{target.path}?{query}digest={digest}", body, headers, wanted=(201,))

    def _ask(
        self,
        method: str,
        path: str,
        body: _Body = b"",
        headers: Mapping[str, str] | None = None,
        *,
        wanted: tuple[int, ...],
    ) -> dict[str, str]:
        """Make one request; return the headers of the answer, by name in lower case."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        with closing(connection):
            try:
                connection.request(method, path, body, dict(headers or {}))
                answer = connection.getresponse()
                said = answer.read(2000)
            except (OSError, http.client.HTTPException) as error:
                raise RegistryError("the registry does not answer", why=str(error) or repr(error)) from error
        if answer.status not in wanted:
            raise RegistryError(
                f"the registry refused {method} {path}",
                why=f"{answer.status} {answer.reason}\n{said.decode('utf-8', 'replace')}",
            )
        return {name.lower(): value for name, value in answer.getheaders()}


def _pieces(blob: Blob) -> Iterator[bytes]:
    position = 0
    while data := blob.pread(CHUNK, position):
        yield data
        position += len(data)

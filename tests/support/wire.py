"""Requests to a registry as they go over the wire: nothing is corrected, followed or repeated."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot_bottle.image.spec import Digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The specification's word for what went wrong."""
        return str(self.json["errors"][0]["code"])

    def __getitem__(self, header: str) -> str:
        return self.headers[header.lower()]


class Wire:
    """One connection to the registry at `port`. Paths that do not begin with / are below the prefix."""

    def __init__(self, port: int, prefix: str) -> None:
        self.port = port
        self.prefix = prefix
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        path = path if path.startswith("/") else f"/v2/{self.prefix}/{path}"
        self._connection.request(method, path, body, dict(headers or {}))
        answer = self._connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())

    def begin(self, repository: str = "app", query: str = "") -> str:
        """Begin an upload; give its location."""
        answer = self.ask("POST", f"{repository}/blobs/uploads/{query}")
        assert answer.status == 202, answer
        return answer["Location"]

    def push_blob(self, data: bytes, repository: str = "app", algorithm: str = "sha256") -> Digest:
        digest = Digest.of(data, algorithm)
        answer = self.ask("POST", f"{repository}/blobs/uploads/?digest={digest}", data)
        assert answer.status == 201, answer
        return digest

    def push_manifest(self, document: dict[str, Any], reference: str = "", repository: str = "app") -> Digest:
        data = json.dumps(document).encode()
        digest = Digest.of(data)
        answer = self.ask(
            "PUT",
            f"{repository}/manifests/{reference or digest}",
            data,
            {"Content-Type": document["mediaType"]},
        )
        assert answer.status == 201, answer
        return digest

    def push_image(self, reference: str = "", repository: str = "app", **more: Any) -> Digest:
        """Push a small image; `more` goes into its manifest."""
        config = self.push_blob(b"{}", repository)
        layer = self.push_blob(b"layer", repository)
        return self.push_manifest(image(config, layer, **more), reference, repository)

    def raw(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own; give all that comes back until the registry closes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return answer


def image(config: Digest, *layers: Digest, **more: Any) -> dict[str, Any]:
    """Give an image manifest."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": str(config), "size": 2},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(each), "size": 5}
            for each in layers
        ],
        **more,
    }

"""An npm registry on loopback that serves packages made for a test, with real metadata and hashes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from tests.support.serving import running


def archive(files: Mapping[str, bytes], *, extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    """Make the archive of a package; files whose content is a script can be executed."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size, member.mtime = len(data), 499162500
            member.mode = 0o755 if data.startswith(b"#!") else 0o644
            tar.addfile(member, io.BytesIO(data))
        for member in extra:
            tar.addfile(member)
    return target.getvalue()


def integrity(data: bytes) -> str:
    """The hash of an archive, as npm writes it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


@dataclass
class FakeRegistry:
    """What is served, by package and version; `seen` are requests and their tokens."""

    packages: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    lies: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def add(self, name: str, version: str, data: bytes) -> str:
        """Add a version, which is the newest then; return its hash."""
        self.packages.setdefault(name, {})[version] = data
        return integrity(data)

    def answer(self, path: str, token: str) -> tuple[int, bytes]:
        """Answer a request."""
        self.seen.append((path, token))
        if self.token and token != f"Bearer {self.token}":
            return 401, b"{}"
        name, _, version = path.strip("/").rpartition("/")
        if version.endswith(".tgz"):
            name = name.removesuffix("/-")
            found = self.packages.get(name, {}).get(version.removesuffix(".tgz"))
            found = self.lies.get(name, found)
            return (200, found) if found is not None else (404, b"")
        versions = self.packages.get(name, {})
        version = list(versions)[-1] if version == "latest" and versions else version
        if version not in versions:
            return 404, b"{}"
        dist = {"integrity": integrity(versions[version]), "tarball": f"{self.url}{name}/-/{version}.tgz"}
        return 200, json.dumps({"name": name, "version": version, "dist": dist}).encode()


@contextmanager
def fake_registry() -> Iterator[FakeRegistry]:
    """Serve a registry until the block ends."""
    made = FakeRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, data = made.answer(unquote(self.path), self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/"
    with running(server):
        yield made

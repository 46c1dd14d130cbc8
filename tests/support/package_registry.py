"""A registry of packages for pip and npm, with TLS, and the tools as they run in a bottle."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import ssl
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bot_bottle.network.caches import PackageFiles
from bot_bottle.network.credentials import VARIABLES
from bot_bottle.network.proxy_address import proxy_variables
from tests.support.npm_registry import archive, integrity
from tests.support.serving import running

HOST = "api.example.org"
PATHS = (
    r"/packages/(?P<blake2b>[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60})/[^/]+",
    r"/npm/[^/]+/-/[^/]+\.tgz",
)


@dataclass
class PackageRegistry:
    """What is served at `url`, by path, and the paths that were requested."""

    url: str = ""
    port: int = 0
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def caches(self) -> list[PackageFiles]:
        """What a cache may hold of it."""
        return [PackageFiles(HOST, self.port, self.port, path) for path in PATHS]

    @property
    def downloads(self) -> list[str]:
        """The paths of packages that were requested."""
        return [path for path in self.asked if path.startswith("/packages/") or "/-/" in path]

    def add(self, name: str, content: bytes) -> None:
        """Add a package of this name for each tool, with a file that has this content."""
        self._add_wheel(name, content)
        data = archive(
            {"package.json": json.dumps({"name": name, "version": "1.0.0"}).encode(), "data": content}
        )
        path = f"/npm/{name}/-/{name}-1.0.0.tgz"
        dist = {"tarball": f"{self.url}{path}", "integrity": integrity(data)}
        versions = {"1.0.0": {"name": name, "version": "1.0.0", "dist": dist}}
        about = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": versions}
        self.files[path] = ("application/octet-stream", data)
        self.files[f"/npm/{name}"] = ("application/json", json.dumps(about).encode())

    def _add_wheel(self, name: str, content: bytes) -> None:
        target, info = io.BytesIO(), f"{name}-1.0.dist-info"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(f"{name}.py", "")
            wheel.writestr(f"{name}.dat", content)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        data = target.getvalue()
        digest = hashlib.blake2b(data, digest_size=32).hexdigest()
        path = f"/packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{name}-1.0-py3-none-any.whl"
        link = f'<a href="{path}#sha256={hashlib.sha256(data).hexdigest()}">{Path(path).name}</a>'
        self.files[path] = ("application/octet-stream", data)
        self.files[f"/simple/{name}/"] = ("text/html", f"<!DOCTYPE html><body>{link}</body>".encode())


@contextmanager
def package_registry(certificate: Path, count: int, size: int) -> Iterator[PackageRegistry]:
    """Serve `count` packages of about so many bytes, until the block ends."""
    made = PackageRegistry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.asked.append(self.path)
            kind, data = made.files.get(self.path, ("text/plain", b""))
            self.send_response(200 if self.path in made.files else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            if self.path in made.downloads:
                self.send_header("Cache-Control", "max-age=365000000, immutable, public")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    made.port = server.server_address[1]
    made.url = f"https://{HOST}:{made.port}"
    numbers = random.Random(0)  # noqa: S311 - the same each time
    for number in range(count):
        made.add(f"package{number}", numbers.randbytes(size))
    with running(server):
        yield made


def tool_argv(tool: str, registry: PackageRegistry, target: Path, cache: Path | None) -> list[str]:
    """Return the command that installs all packages into `target`, with a cache folder of the tool's own."""
    names = sorted({path.split("/")[2] for path in registry.files if path.startswith("/simple/")})
    if tool == "pip":
        own = ["--no-cache-dir"] if cache is None else ["--cache-dir", str(cache)]
        argv = [sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--no-compile", *own]
        argv += ["--disable-pip-version-check", "--root-user-action=ignore", "-i", f"{registry.url}/simple"]
        return [*argv, "--target", str(target), *names]
    folder = target.with_name(f"{target.name}-npm") if cache is None else cache
    argv = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock", "--no-save"]
    argv += ["--registry", f"{registry.url}/npm", "--cache", str(folder), "--prefix", str(target)]
    return [*argv, *names]


def tool_env(proxy: int, authorities: Path, home: Path) -> dict[str, str]:
    """Return the variables that a bottle has, with the port of a proxy and the authorities' file of here."""
    variables = proxy_variables("127.0.0.1")
    found = {name: value.replace(":3128", f":{proxy}") for name, value in variables.items()}
    trusted = dict.fromkeys(VARIABLES, str(authorities))
    return {"PATH": os.environ["PATH"], "HOME": str(home), **found, **trusted}

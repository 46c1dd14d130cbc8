"""Smart HTTP for git (gitprotocol-http(5)) on a Unix socket: requests are handed to `git http-backend`.

A request's body is stored before git reads it, so that its size is limited, and a slow sender costs a thread
and no process. Requests are those of a proxy as well as of a server (RFC 9112, section 3.2).
"""

from __future__ import annotations

import json
import re
import socket
import socketserver
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import BoundedSemaphore
from typing import IO, BinaryIO, Protocol
from urllib.parse import quote, urlsplit

from bot_bottle.errors import BottleError
from bot_bottle.git.quarantine import Quarantine
from bot_bottle.host import process
from bot_bottle.workspace.git import environment, program

SOCKET = "http"
_BOUND = "http.new"

_SERVICES = ("git-upload-pack", "git-receive-pack")
_PATH = re.compile(r"/([^/]+?)(?:\.git)?/+(info/refs|git-upload-pack|git-receive-pack)")
_LFS = re.compile(r"/[^/]+/+info/lfs/.*")
_URL = ":/?#[]@!$&'()*+,;=%"  # what a URL has besides letters, digits and -._~ (RFC 3986, 2.2)
_LARGEST_FETCH = 32 << 20  # bytes of what a fetch has and wants
_SLACK = 1 << 20  # bytes of a push besides its pack
_DRAINED = 16  # times the limit: what is read of a body that is too large, so that the answer is read
_LARGEST_HEAD = 16 << 10  # bytes of the CGI header
_MOST_CONNECTIONS = 64
_IDLE = 300.0  # seconds
_CHUNK = 1 << 16
_DIGITS = {10: re.compile(rb"[0-9]{1,15}"), 16: re.compile(rb"[0-9A-Fa-f]{1,12}")}
_LONGEST_ERROR = 2000  # characters


class Repositories(Protocol):
    """The repositories that are served, by the names of their remotes."""

    @property
    def names(self) -> list[str]:
        """The names."""

    @property
    def largest(self) -> int:
        """The most bytes of a push."""

    def quarantine(self, name: str) -> Quarantine:
        """Return the quarantine of a remote."""

    def refresh(self, name: str) -> None:
        """Fetch what the remote has. Raises WorkspaceError."""

    def longer(self, path: str) -> str | None:
        """Return the URL that begins as a remote's, by what git made of it; "" if that is not one of HTTP.

        None for a path that does not begin as a remote.
        """


def listen(repositories: Repositories, folder: Path) -> socketserver.BaseServer:
    """Return a server that listens on SOCKET in a folder, which is the current one."""
    server = _Server(_BOUND, _Handler)
    server.repositories = repositories
    server.folder = folder
    Path(_BOUND).rename(SOCKET)  # from its first moment under this name, it takes connections
    return server


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
    repositories: Repositories
    folder: Path

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._free = BoundedSemaphore(_MOST_CONNECTIONS)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client: object) -> None:
        """Serve a connection in a thread of its own, unless there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client)
        else:
            self.shutdown_request(request)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client: object
    ) -> None:
        """Serve a connection."""
        try:
            super().process_request_thread(request, client)
        finally:
            self._free.release()

    def handle_error(self, request: object, client: object) -> None:
        """Report an error of ours; a client that has gone away is not one."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client)  # type: ignore[arg-type]


class _Refused(Exception):
    """A request that is not answered by git; with an HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE
    server: _Server

    def log_message(self, *_: object) -> None:
        """Log nothing: the proxy logs requests."""

    def do_GET(self) -> None:
        """Answer a request for references."""
        self._answer("info/refs")

    def do_POST(self) -> None:
        """Answer a fetch or a push."""
        self._answer("git-upload-pack", "git-receive-pack")

    def _answer(self, *actions: str) -> None:
        try:
            parts = urlsplit(self.path)
            if _LFS.fullmatch(parts.path):
                self._refuse_lfs()
                return
            found = _PATH.fullmatch(parts.path)
            if found is None or found[2] not in actions or found[1] not in self.server.repositories.names:
                self._lead_on(parts.path, parts.query)
                return
            name, action = found[1], found[2]
            service = parts.query.removeprefix("service=") if action == "info/refs" else action
            if service not in _SERVICES:
                raise _Refused(403, "only git's smart HTTP is served")
            with self._body(service) as body:
                if action == "info/refs":
                    self._references(name, service)
                else:
                    self._run(name, action, body)
        except _Refused as refused:
            self.close_connection = True
            self._send(refused.status, "text/plain", f"bottle: {refused}\n".encode())

    def _lead_on(self, path: str, query: str) -> None:
        """Redirect to the URL of another repository, which git took for a remote. Raises _Refused.

        `insteadOf` replaces the beginning of a URL, whatever follows.
        """
        meant = self.server.repositories.longer(path) if path.endswith("/info/refs") else None
        names = ", ".join(self.server.repositories.names)
        if meant is None:
            raise _Refused(404, f"there is nothing but git remotes here; this bottle has: {names}")
        if not meant:
            text = "let the URL of the remote end with .git: git remote set-url NAME URL.git"
            raise _Refused(404, f"the requested URL only begins as that of a remote; outside, {text}")
        self.close_connection = True
        where = f"{meant}?{query}"
        self._send(301, "text/plain", b"", ("Location", quote(where, safe=_URL)))

    def _refuse_lfs(self) -> None:
        """Refuse a request of git LFS in the form that it shows (its API, Response Errors)."""
        with self._body("git-upload-pack"):
            text = "bottle: git LFS objects are not transferred; fetch and push them outside the bottle"
            self._send(501, "application/vnd.git-lfs+json", json.dumps({"message": text}).encode())

    def _references(self, name: str, service: str) -> None:
        """Fetch what the remote has, and answer with its references."""
        try:
            self.server.repositories.refresh(name)
        except BottleError as error:
            text = f"bottle: {error.message}\n{error.why}".strip()[:_LONGEST_ERROR]
            body = _packet(f"# service={service}\n") + b"0000" + _packet(f"ERR {text}")
            self._send(200, f"application/x-{service}-advertisement", body)
            return
        with tempfile.TemporaryFile() as empty:
            self._run(name, "info/refs", empty, f"service={service}")

    def _run(self, name: str, action: str, body: IO[bytes], query: str = "") -> None:
        made = self.server.repositories.quarantine(name)
        if not made.folder.exists():
            raise _Refused(404, "ask for its references first")
        if action != "git-receive-pack":
            self._backend(made, action, body, query)
            return
        with made.locked():
            self._backend(made, action, body, query)

    def _backend(self, made: Quarantine, action: str, body: IO[bytes], query: str) -> None:
        """Run git on a request (RFC 3875) and send its answer."""
        env = environment(
            {
                **made.git.extra,
                "GIT_PROJECT_ROOT": str(made.folder.parent),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": f"/{made.folder.name}/{action}",
                "REMOTE_USER": "bottle",
                "REMOTE_ADDR": "bottle",
                "REQUEST_METHOD": self.command,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self._header("Content-Type"),
                "CONTENT_LENGTH": str(body.seek(0, 2)),
                "HTTP_CONTENT_ENCODING": self._header("Content-Encoding"),
                "HTTP_GIT_PROTOCOL": self._header("Git-Protocol"),
            }
        )
        body.seek(0)
        argv = [program(), "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "http-backend"]
        begun = False
        try:
            with process.reading(argv, env=env, cwd=made.folder, input=body) as stream:
                status, headers = _cgi_header(stream)
                begun = True
                self._stream(status, headers, stream)
        except process.CommandFailed as error:
            self.close_connection = True
            if not begun:
                raise _Refused(500, "git failed") from error

    def _header(self, name: str) -> str:
        return str(self.headers.get(name, ""))

    def _stream(self, status: int, headers: list[tuple[str, str]], stream: BinaryIO) -> None:
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        chunked = self.request_version != "HTTP/1.0"
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")))
        self.end_headers()
        while data := stream.read1(_CHUNK):  # type: ignore[attr-defined]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, status: int, kind: str, body: bytes, *headers: tuple[str, str]) -> None:
        with suppress(OSError):
            self.send_response(status)
            for header in headers:
                self.send_header(*header)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    def _body(self, service: str) -> IO[bytes]:
        """Return the request's body in an unnamed file; only the beginning of one that is too large."""
        push = service == "git-receive-pack"
        limit = self.server.repositories.largest + _SLACK if push else _LARGEST_FETCH
        file = tempfile.TemporaryFile(dir=self.server.folder)  # noqa: SIM115 - the caller closes it
        size = 0
        try:
            for data in self._pieces():
                file.write(data[: max(0, limit - size)])
                size += len(data)
                if size > limit * (_DRAINED if push else 1):
                    raise _Refused(413, f"the request is too large; {limit} bytes are the most")
        except BaseException:
            file.close()
            raise
        return file

    def _pieces(self) -> Iterator[bytes]:
        if self._header("Transfer-Encoding").lower() == "chunked":
            while length := self._number(self.rfile.readline(1024).partition(b";")[0].strip(), 16):
                yield from self._exactly(length)
                self.rfile.readline(2)
            while self.rfile.readline(_CHUNK).strip():
                pass
        elif length_text := self._header("Content-Length"):
            yield from self._exactly(self._number(length_text.encode(), 10))

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            data = self.rfile.read1(min(length, _CHUNK))
            if not data:
                raise _Refused(400, "the request's body is not complete")
            length -= len(data)
            yield data

    @staticmethod
    def _number(text: bytes, base: int) -> int:
        """Return the number of a length, without the signs and spaces that int() accepts."""
        if not _DIGITS[base].fullmatch(text):
            raise _Refused(400, "a length in the request is invalid")
        return int(text, base)


def _packet(text: str) -> bytes:
    """Return a line of git's protocol (gitprotocol-common(5))."""
    data = text.encode("utf-8", "replace")
    return b"%04x%b" % (len(data) + 4, data)


def _cgi_header(stream: BinaryIO) -> tuple[int, list[tuple[str, str]]]:
    """Read the header of a CGI program's answer (RFC 3875, section 6)."""
    status, headers, size = 200, [], 0
    while line := stream.readline(_LARGEST_HEAD).rstrip(b"\r\n"):
        size += len(line)
        name, _, value = line.decode("latin-1").partition(": ")
        if name.lower() == "status":
            status = int(value.split()[0])
        else:
            headers.append((name, value))
        if size > _LARGEST_HEAD:
            raise _Refused(500, "git's answer is invalid")
    return status, headers

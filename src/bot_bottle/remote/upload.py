"""Blobs into a registry: in chunks, resumed where a connection breaks.

Source: OCI distribution-spec v1.1, "Pushing blobs", "Resuming an upload".
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import quote

from bot_bottle.errors import RegistryError
from bot_bottle.image.spec import Digest
from bot_bottle.remote.session import Answer, BusyError, NotThereError, Session, UnreachableError

_CHUNK = 16 << 20  # bytes, unless the registry wants more
_PIECE = 1 << 20
_TRIES = 5  # without any progress
_OCTETS = "application/octet-stream"
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")


def push_bytes(session: Session, data: bytes) -> Digest:
    """Push a small blob, unless the registry has it; return its digest. Raises RegistryError."""
    digest = Digest.of(data)
    if not _exists(session, digest):
        with session.ask("POST", "blobs/uploads/", wanted=(202,)) as begun:
            place = session.location(begun, "blobs/uploads/")
        _finish(session, place, digest, data)
    return digest


def push_file(
    session: Session,
    fd: int,
    digest: Digest,
    size: int,
    on_bytes: Callable[[int], None] = lambda _count: None,
) -> int:
    """Push a file as a blob, unless the registry has it; return how many bytes were sent.

    `on_bytes` is called with the size of each piece, and with all of it if the registry has it. Raises
    RegistryError, also where the file does not have this digest any more.
    """
    if _exists(session, digest):
        on_bytes(size)
        return 0
    upload = _Upload(session, fd, size, on_bytes)
    failures, furthest = 0, 0
    while upload.offset < size:
        try:
            upload.send_chunk()
        except (UnreachableError, BusyError) as error:
            failures = failures + 1 if upload.offset <= furthest else 1
            furthest = max(furthest, upload.offset)
            if failures == _TRIES or not _paused(session, error, failures):
                raise
            upload.resume()
    upload.finish(digest)
    return size


def _paused(session: Session, error: UnreachableError | BusyError, failures: int) -> bool:
    """Wait before an upload goes on, unless its connection broke for the first time; return if it may."""
    if isinstance(error, BusyError):
        return session.retry.pause(error.message, failures, error.stated)
    return failures == 1 or session.retry.pause(error.message, failures)


class _Upload:
    """One upload. `offset` is how much of the file the registry has."""

    def __init__(self, session: Session, fd: int, size: int, on_bytes: Callable[[int], None]) -> None:
        self._session, self._fd, self._size, self._on_bytes = session, fd, size, on_bytes
        self._chunk = _CHUNK
        self._counted = 0
        self.offset = 0
        self._place = ""
        self._begin()

    def send_chunk(self) -> None:
        """Send the next chunk. Raises UnreachableError where the connection breaks."""
        end = min(self.offset + self._chunk, self._size)
        headers = {
            "Content-Type": _OCTETS,
            "Content-Length": str(end - self.offset),
            "Content-Range": f"{self.offset}-{end - 1}",
        }
        body = partial(self._pieces, self.offset, end)
        with self._session.ask("PATCH", self._place, body, headers, wanted=(202,)) as answer:
            self._place = self._session.location(answer, "blobs/uploads/")
        self.offset = end

    def resume(self) -> None:
        """Ask how much has arrived, or begin again where the registry does not say. Raises RegistryError."""
        try:
            with self._session.ask("GET", self._place, wanted=(204,)) as answer:
                self._place = self._session.location(answer, "blobs/uploads/")
                found = _RANGE.fullmatch(answer.header("Range").strip())
        except UnreachableError:
            return  # the next chunk is the next try
        except RegistryError:
            found = None
        if found and 0 < int(found[1]) < self._size:
            self.offset = int(found[1]) + 1
        else:
            self._begin()

    def finish(self, digest: Digest) -> None:
        """End the upload: the registry checks the digest, and publishes the blob. Raises RegistryError."""
        _finish(self._session, self._place, digest)

    def _begin(self) -> None:
        with self._session.ask("POST", "blobs/uploads/", wanted=(202,)) as answer:
            self._place = self._session.location(answer, "blobs/uploads/")
            self._chunk = max(_CHUNK, _least(answer))
        self.offset = 0

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            data = os.pread(self._fd, min(_PIECE, end - start), start)
            if not data:
                raise RegistryError("the artifact has become shorter while it was pushed")
            yield data
            start += len(data)
            if start > self._counted:
                self._on_bytes(start - self._counted)
                self._counted = start


def digest_of(fd: int) -> Digest:
    """Return the SHA-256 of an open file. Raises OSError."""
    whole, position = hashlib.sha256(), 0
    while data := os.pread(fd, _PIECE, position):
        whole.update(data)
        position += len(data)
    return Digest(f"sha256:{whole.hexdigest()}")


def _exists(session: Session, digest: Digest) -> bool:
    with session.ask("HEAD", f"blobs/{digest}", wanted=(200, 404)) as answer:
        return answer.status == 200


def _finish(session: Session, place: str, digest: Digest, data: bytes = b"") -> None:
    """End an upload with its last bytes. Raises RegistryError."""
    place = f"{place}{'&' if '?' in place else '?'}digest={quote(str(digest))}"
    try:
        session.ask("PUT", place, data, {"Content-Type": _OCTETS}, wanted=(201,)).__exit__()
    except NotThereError:
        if not _exists(session, digest):  # it is there if only the answer to the first try was lost
            raise


def _least(answer: Answer) -> int:
    text = answer.header("OCI-Chunk-Min-Length")
    return min(int(text), 1 << 30) if re.fullmatch(r"\d{1,12}", text) else 0

"""Blobs from a registry: into a file that an interrupted download leaves, and the next one goes on with.

What is in a part list and in artifacts here already is copied, and not sent. The digest of the whole is
checked before the file is given to anybody.

Source: OCI distribution-spec v1.1, "Pulling blobs"; RFC 9110, 14 (range requests).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.cache.scratch import disk_full_explained
from bot_bottle.errors import ArtifactError, DiskFullError, Interrupted, RegistryError
from bot_bottle.host.locks import exclusive_lock, try_lock_file
from bot_bottle.host.progress import human_bytes
from bot_bottle.image.spec import Digest
from bot_bottle.remote.session import Answer, Session, UnreachableError

_PIECE = 1 << 20
_TRIES = 4  # without any progress
_OLD = 7 * 86400  # seconds after which an unfinished download is removed
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class SlowError(RegistryError):
    """The registry sends so little that the download is given up."""


class Piece(Struct, frozen=True):
    """A range of the blob: `read` returns its bytes from a file here, or None where they are not there."""

    start: int
    stop: int
    read: Callable[[], bytes | None]


class Pace(Struct, frozen=True):
    """What a registry has to send: at least `least` bytes in each `seconds`."""

    seconds: float
    least: int


class Moved(Struct):
    """How many bytes were sent by the registry, and how many were copied from files here."""

    sent: int = 0
    copied: int = 0


@contextmanager
def downloaded(
    session: Session,
    digest: Digest,
    size: int,
    folder: Path,
    *,
    pieces: Callable[[], Sequence[Piece]] = tuple,
    pace: Pace | None = None,
    on_bytes: Callable[[int], None] = lambda _count: None,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Path, Moved]]:
    """Yield a file in `folder` with a whole blob, to be moved away; what is left of it then is removed.

    `pieces` returns those that are here, in the order of their positions; it is called when no other process
    downloads the same, which may have brought them. What came stays for the next time if the registry breaks
    off, or a signal ends the download; not with a `pace`, as the registry is given up for another way then.
    `on_wait` is called if another process downloads it. Raises RegistryError, SlowError, DiskFullError,
    ArtifactError where the bytes have another digest.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_old(folder)
    partial, lock = (folder / f"{digest.hex}{suffix}" for suffix in (".partial", ".lock"))
    stays = False
    with exclusive_lock(lock, on_wait):
        try:
            with disk_full_explained("the artifact", folder):
                _require_room(folder, partial, size)
                moved = _Download(session, digest, size, partial, pieces(), pace, on_bytes).run()
        except (RegistryError, Interrupted) as error:
            stays = partial.exists() and (pace is None or isinstance(error, Interrupted))
            raise
        else:
            yield partial, moved
        finally:
            if not stays:
                partial.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)


def discard_downloads(folder: Path) -> None:
    """Remove all unfinished downloads that no process works on."""
    _remove_old(folder, 0)


class _Download:
    def __init__(
        self,
        session: Session,
        digest: Digest,
        size: int,
        path: Path,
        pieces: Sequence[Piece],
        pace: Pace | None,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._session, self._digest, self._size, self._path = session, digest, size, path
        self._pieces, self._pace, self._on_bytes = deque(pieces), pace, on_bytes
        self._moved = Moved()
        self._hash: Any = hashlib.new(digest.algorithm)
        self._at = 0
        self._counted = 0

    def run(self) -> Moved:
        """Fill the file. A second time from its beginning, if what was there already was not sound."""
        with open(self._path, "ab+", buffering=0, opener=_private) as file:
            self._restore(file)
            given = bool(self._at or self._pieces)
            self._fill(file)
            if given and not self._is_sound():
                self._restart(file)
                self._fill(file)
        if not self._is_sound():
            self._path.unlink(missing_ok=True)
            raise ArtifactError(
                f"{self._session.host} sent other bytes than those of {self._digest}",
                why=f"{self._at} bytes came, with another digest; {self._size} were announced",
                next_step="push the artifact again, or tell who runs the registry",
            )
        return self._moved

    def _restore(self, file: Any) -> None:
        """Go on after what an earlier download left."""
        if os.fstat(file.fileno()).st_size > self._size:
            file.truncate(0)
        while data := os.pread(file.fileno(), _PIECE, self._at):
            self._hash.update(data)
            self._at += len(data)
        self._count()

    def _restart(self, file: Any) -> None:
        self._pieces.clear()
        file.truncate(0)
        self._hash, self._at = hashlib.new(self._digest.algorithm), 0

    def _is_sound(self) -> bool:
        return self._at == self._size and self._hash.hexdigest() == self._digest.hex

    def _fill(self, file: Any) -> None:
        failures = 0
        while self._at < self._size:
            before = self._at
            try:
                self._step(file)
            except UnreachableError:
                failures = failures + 1 if self._at == before else 0
                if failures == _TRIES or self._pace:
                    raise
                time.sleep(0.05 * 2**failures)

    def _step(self, file: Any) -> None:
        """Copy the piece that is next, or let the registry send what is before the one after it."""
        at = self._at
        while self._pieces and self._pieces[0].stop <= at:
            self._pieces.popleft()
        here = self._pieces[0] if self._pieces else None
        if here is not None and here.start <= at:
            data = here.read()
            if data is not None and len(data) == here.stop - here.start:
                self._moved.copied += here.stop - at
                self._write(file, data[at - here.start :])
                return
            self._pieces.popleft()  # removed a moment ago, or damaged
            return
        self._receive(file, self._size if here is None else here.start)

    def _receive(self, file: Any, stop: int) -> None:
        whole = self._at == 0 and stop == self._size
        headers = {} if whole else {"Range": f"bytes={self._at}-{stop - 1}"}
        with self._session.ask("GET", f"blobs/{self._digest}", headers=headers, wanted=(200, 206)) as answer:
            if answer.status == 206:
                found = _CONTENT_RANGE.fullmatch(answer.header("Content-Range"))
                if not found or int(found[1]) != self._at:
                    raise RegistryError(f"{self._session.host} sent another range than was asked for")
            elif not whole:  # it has no ranges, and sends everything
                self._restart(file)
                stop = self._size
            self._copy(file, answer, stop)

    def _copy(self, file: Any, answer: Answer, stop: int) -> None:
        begun, got = time.monotonic(), 0
        while self._at < stop:
            data = answer.some(min(_PIECE, stop - self._at))
            if not data:
                raise UnreachableError(
                    f"the registry {self._session.host} ended its answer early",
                    next_step="run the command again, which goes on where this one ended",
                )
            self._moved.sent += len(data)
            self._write(file, data)
            got += len(data)
            if self._pace and (now := time.monotonic()) - begun >= self._pace.seconds:
                if got < self._pace.least:
                    raise SlowError(f"the registry {self._session.host} is too slow")
                begun, got = now, 0

    def _write(self, file: Any, data: bytes) -> None:
        self._hash.update(data)
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        self._at += len(data)
        self._count()

    def _count(self) -> None:
        if self._at > self._counted:
            self._on_bytes(self._at - self._counted)
            self._counted = self._at


def _require_room(folder: Path, partial: Path, size: int) -> None:
    """Refuse a download that does not fit before it fills the disk. Raises DiskFullError, OSError."""
    needed = size - (partial.lstat().st_size if partial.exists() else 0)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise DiskFullError(
            f"no room left for the artifact in {folder}",
            why=f"{human_bytes(needed)} are needed, {human_bytes(free)} are free",
            next_step="bottle cache prune, or free some space",
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _remove_old(folder: Path, age: float = _OLD) -> None:
    for path in folder.glob("*.partial"):
        try:
            if time.time() - path.lstat().st_mtime < age:
                continue
            with try_lock_file(path.with_suffix(".lock")) as free:
                if free:
                    path.unlink(missing_ok=True)
        except OSError:
            continue  # removed a moment ago, or not ours

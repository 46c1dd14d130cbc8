"""Files of package registries, cached by their URL. Several processes may use them at once.

Each is one file, named by the SHA-256 of its URL: the bytes, a record of them (JSON), and the record's length
in 8 bytes. Its modification time is when it was last used. A new one is written to `NAME.RANDOM.partial`,
which its writer has locked, and renamed. They are not synced to the disk, so a crash may damage one: the
bytes are hashed before they are used, and a damaged one costs no more than another download.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from bot_bottle.host.files import open_unbuffered
from bot_bottle.host.locks import try_lock

LIMIT = 10 << 30  # bytes of all of them

_CHUNK = 1 << 20  # bytes
_LENGTH = 8  # bytes
_LARGEST_RECORD = 64 << 10  # bytes
_SHARE = 16  # an n-th of the limit is written before old ones are removed again
_LARGEST_SHARE = 4  # no file is larger than an n-th of the limit
_NAME = re.compile(r"[0-9a-f]{64}\Z")
_PARTIAL = re.compile(r"([0-9a-f]{64})\.[0-9a-f]{16}\.partial\Z")


class Record(Struct, frozen=True):
    """What is recorded of a file: `headers` are those of the response, `stored` is in seconds since 1970."""

    url: str
    size: int
    sha256: str
    headers: Mapping[str, str]
    stored: float


class StoredFile(Struct, frozen=True):
    """A file in the cache. `size` is in bytes on the disk, `last_used` in seconds since 1970."""

    path: Path
    size: int
    last_used: float
    url: str


class Removed(Struct, frozen=True):
    """How many files were removed, or would be, and their bytes."""

    count: int
    freed: int


class PackageStore:
    """The files in `folder`, which is made when it is first needed, private to the user."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder, self._limit = folder, limit
        self._unchecked = limit  # bytes that may have been added since old ones were removed

    def open(self, url: str) -> tuple[BinaryIO, Record] | None:
        """Open the sound file of a URL at its beginning; a damaged one is removed."""
        path = self._folder / _name(url)
        try:
            file = open_unbuffered(path)
        except OSError:
            return None
        try:
            record = _sound_record(file, url)
            if record is not None:
                os.utime(file.fileno())
                return file, record
            path.unlink(missing_ok=True)
        except OSError:
            pass
        file.close()
        return None

    def add(self, url: str, headers: Mapping[str, str]) -> Recording | None:
        """Begin to store a file; None where that is not possible. It replaces an earlier one."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Recording(self._folder, url, headers, self._limit // _LARGEST_SHARE, self._added)
        except OSError:
            return None

    def _added(self, size: int) -> None:
        self._unchecked += size
        if self._unchecked >= self._limit // _SHARE:
            self._unchecked = 0
            self.prune(keep_bytes=self._limit - self._limit // _SHARE)

    def files(self) -> list[StoredFile]:
        """Return the files, the least recently used first. Their bytes are not checked."""
        found = []
        for path in self._paths(_NAME):
            with suppress(OSError), open_unbuffered(path) as file:
                facts = os.fstat(file.fileno())
                record = _record(file)
                if record is not None and _name(record.url) == path.name:
                    found.append(StoredFile(path, facts.st_size, facts.st_mtime, record.url))
        return sorted(found, key=lambda each: each.last_used)

    def verify(self, on_bytes: Callable[[int], None] = lambda _count: None) -> list[Path]:
        """Check every byte of every file; return the damaged ones."""
        damaged = []
        for path in self._paths(_NAME):
            try:
                with open_unbuffered(path) as file:
                    record = _record(file)
                    named = record is not None and _name(record.url) == path.name
                    if record is not None and named and _sound_record(file, record.url, on_bytes):
                        continue
            except FileNotFoundError:  # removed a moment ago
                continue
            except OSError:
                pass
            damaged.append(path)
        return damaged

    def prune(
        self, *, keep_bytes: int | None = None, older_than: float | None = None, dry_run: bool = False
    ) -> Removed:
        """Remove the least recently used until `keep_bytes` are left, and all not used for so many seconds.

        What killed processes left is always removed.
        """
        if not dry_run:
            self._sweep()
        found = []
        for path in self._paths(_NAME):
            with suppress(OSError):
                facts = path.lstat()
                found.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in found)
        count = freed = 0
        for used, size, path in sorted(found):
            too_old = older_than is not None and used < time.time() - older_than
            too_much = keep_bytes is not None and total - freed > keep_bytes
            if not (too_old or too_much):
                continue
            if not dry_run:
                with suppress(OSError):
                    path.unlink(missing_ok=True)  # one that is open can still be read
            count, freed = count + 1, freed + size
        return Removed(count, freed)

    def _sweep(self) -> None:
        """Remove the files of writers that were killed."""
        for path in self._paths(_PARTIAL):
            with try_lock(path) as free:
                if free:
                    path.unlink(missing_ok=True)

    def _paths(self, names: re.Pattern[str]) -> list[Path]:
        try:
            return [path for path in self._folder.iterdir() if names.match(path.name)]
        except OSError:
            return []


class Recording:
    """A file that is being stored. Unless it is published it is removed when it is closed.

    An error, such as a full disk, ends it without a word: the cache is not needed.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        headers: Mapping[str, str],
        largest: int,
        added: Callable[[int], None],
    ) -> None:
        self._path = folder / _name(url)
        self._partial = folder / f"{self._path.name}.{secrets.token_hex(8)}.partial"
        self._url, self._headers = url, headers
        self._largest, self._added = largest, added
        self._hash, self._size = hashlib.sha256(), 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file: BinaryIO | None = os.fdopen(os.open(self._partial, flags, 0o600), "wb", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise

    def write(self, data: bytes) -> None:
        """Append bytes."""
        if self._file is None:
            return
        self._hash.update(data)
        self._size += len(data)
        if self._size > self._largest or not self._write(data):
            self.close()

    def publish(self) -> None:
        """Store it: from now on it is found."""
        if self._file is None:
            return
        record = {
            "url": self._url,
            "size": self._size,
            "sha256": self._hash.hexdigest(),
            "headers": dict(self._headers),
            "stored": time.time(),
        }
        text = json.dumps(record).encode()
        if len(text) <= _LARGEST_RECORD and self._write(text + len(text).to_bytes(_LENGTH, "big")):
            with suppress(OSError):
                self._partial.replace(self._path)
        self.close()
        self._added(self._size)

    def close(self) -> None:
        """Remove it, unless it was published."""
        file, self._file = self._file, None
        if file is not None:
            self._partial.unlink(missing_ok=True)
            file.close()

    def _write(self, data: bytes) -> bool:
        """Return whether all of it could be written."""
        rest = memoryview(data)
        try:
            while rest and self._file is not None:
                rest = rest[self._file.write(rest) :]
        except OSError:
            return False
        return True


def _name(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _record(file: BinaryIO) -> Record | None:
    """Return the record of a file; None for one that is damaged. Raises OSError."""
    end = os.fstat(file.fileno()).st_size
    length = int.from_bytes(os.pread(file.fileno(), _LENGTH, max(0, end - _LENGTH)), "big")
    size = end - _LENGTH - length
    if size < 0 or not 0 < length <= _LARGEST_RECORD:
        return None
    with suppress(ValueError, TypeError, RecursionError):
        record = Record(**json.loads(os.pread(file.fileno(), length, size)))
        if record.size == size and isinstance(record.headers, dict) and isinstance(record.url, str):
            return record
    return None


def _sound_record(
    file: BinaryIO, url: str, on_bytes: Callable[[int], None] = lambda _count: None
) -> Record | None:
    """Return the record of a file that is that of a URL, and whose bytes it describes. Raises OSError."""
    record = _record(file)
    if record is None or record.url != url:
        return None
    found = hashlib.sha256()
    for data in read_file(file, record.size):
        found.update(data)
        on_bytes(len(data))
    file.seek(0)
    return record if found.hexdigest() == record.sha256 else None


def read_file(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield so many bytes of a file in parts, or those that there are. Raises OSError."""
    while size and (data := file.read(min(size, _CHUNK))):
        size -= len(data)
        yield data

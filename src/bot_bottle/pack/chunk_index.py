"""An index of the parts of artifacts by what decides their bytes: data that images share is compressed once.

A part is a segment (see frames.py) of an artifact. Beside an artifact `<stem>.smolmachine` the file
`<stem>.parts` lists the parts and their positions in it. A list is only used if its checksum is right and it
belongs to the artifact as it is, and a part only if its own checksum is right; so nothing is synced, and a
part that was damaged, pruned or replaced meanwhile is made again. A list that cannot be written has no other
effect. Files of segments alone, those of agents, have such lists too, without a CRC-32 of the file (0).

A list is, little-endian: 8 bytes of magic; the artifact's size (8) and the CRC-32 in its footer (4); for each
part the SHA-256 of its key (32), its offset (8) and its size (4); the CRC-32 of all that (4).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bot_bottle.cache.entry import LIST_SUFFIX, list_path
from bot_bottle.cache.key import SUFFIX as ARTIFACT_SUFFIX
from bot_bottle.errors import ArtifactError
from bot_bottle.host.files import read_regular
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.smolmachine.crc import crc32
from bot_bottle.smolmachine.frames import COMPRESSION, is_segment
from bot_bottle.smolmachine.writer import Part

_MAGIC = b"bbparts1"
_HEAD = struct.Struct("<8sQI")
_ENTRY = struct.Struct("<32sQI")
_CRC = 4
_LARGEST = 16 << 20  # bytes of a part
_ENTRIES = 50_000  # of the newest artifacts are indexed: some 200 GB

LIST_LIMIT = _ENTRIES * _ENTRY.size  # bytes of a list that is read


class _Place(NamedTuple):
    opened: Callable[[], int | None]
    offset: int
    size: int


class PartList:
    """The list that is written beside an artifact: its parts and their positions."""

    def __init__(self) -> None:
        self._entries: list[bytes] = []

    def add(self, key: str, offset: int, size: int) -> None:
        """Add the position of the part with this key."""
        self._entries.append(_ENTRY.pack(_hashed(key), offset, size))

    def write(self, artifact: Path, size: int, checksum: int) -> None:
        """Write the list of an artifact that has `size` bytes, and `checksum` in its footer."""
        data = b"".join([_HEAD.pack(_MAGIC, size, checksum), *sorted(self._entries)])
        path = list_path(artifact)
        try:
            path.write_bytes(data + crc32(data).to_bytes(_CRC, "little"))
        except OSError:  # such as a full disk
            with contextlib.suppress(OSError):
                path.unlink()


class Parts:
    """The parts of all artifacts in a folder, and of files with the segments of agents.

    A context manager; `read` may be called in any thread.
    """

    def __init__(self, folder: Path, agents: Sequence[Path] = ()) -> None:
        self.of_agents = bool(agents)
        self._folder, self._agents = folder, agents
        self._places: dict[bytes, _Place] = {}
        self._open = ExitStack()

    def __enter__(self) -> Parts:
        for path in self._agents:
            self._learn(list_path(path), path, _has_size)
        for path in _newest_first(self._folder):
            if len(self._places) < _ENTRIES:
                self._learn(path, path.with_suffix(ARTIFACT_SUFFIX), _is_artifact)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self._places)

    def holds(self, key: str) -> bool:
        """Return whether a part is listed for a key, sound or not."""
        return _hashed(key) in self._places

    def add(self, key: str, fd: int, offset: int, size: int) -> None:
        """Add a part in a file that stays open for as long as the part may be read."""
        self._places[_hashed(key)] = _Place(lambda: fd, offset, size)

    def read(self, key: str) -> Part | None:
        """Return the part with this key; None if there is none, or it is damaged."""
        return self._read(_hashed(key))

    def find_listed(self, data: bytes, size: int) -> Iterator[tuple[int, int, Callable[[], bytes | None]]]:
        """Yield the parts of another artifact, of `size` bytes, that are here too, in their order.

        `data` is the untrusted list of its parts; none are found by a damaged one. Of each part there are its
        offset and size in that artifact, and what reads it here: None if it is damaged.
        """
        try:
            listed_size, _, listed = _parsed(data)
            entries = sorted(listed, key=lambda entry: entry[1]) if listed_size == size else []
        except (ValueError, struct.error):
            return
        end = 0
        for key, offset, length in entries:
            place = self._places.get(key)
            if place is None or place.size != length or not end <= offset <= size - length:
                continue
            end = offset + length
            yield offset, length, partial(self._data, key)

    def _data(self, key: bytes) -> bytes | None:
        part = self._read(key)
        return part.data if part is not None else None

    def _read(self, key: bytes) -> Part | None:
        place = self._places.get(key)
        fd = place.opened() if place is not None else None
        if place is None or fd is None:
            return None
        try:
            data = os.pread(fd, place.size, place.offset)
        except OSError:
            return None
        return Part(data, fd, place.offset) if len(data) == place.size and is_segment(data) else None

    def _learn(self, path: Path, file: Path, is_listed: Callable[[int, int, int], bool]) -> None:
        try:
            data, _ = read_regular(path, LIST_LIMIT)
            size, checksum, entries = _parsed(data)
            opened = _File(file, partial(is_listed, size, checksum), self._open).fd
            for key, offset, length in entries:
                if length <= _LARGEST:
                    self._places.setdefault(key, _Place(opened, offset, length))
        except (OSError, ValueError, struct.error):
            return


def _parsed(data: bytes) -> tuple[int, int, Iterator[tuple[bytes, int, int]]]:
    """Return the size and checksum of a list's artifact, and its entries: key, offset and size of each.

    Raises ValueError and struct.error for a damaged list.
    """
    magic, size, checksum = _HEAD.unpack_from(data)
    if magic != _MAGIC or crc32(data[:-_CRC]) != int.from_bytes(data[-_CRC:], "little"):
        raise ValueError("not a list of parts")
    return size, checksum, _ENTRY.iter_unpack(data[_HEAD.size : -_CRC])


class _File:
    """A file of parts, opened when it is first needed and if it is the one that is listed."""

    def __init__(self, path: Path, is_listed: Callable[[int], bool], stack: ExitStack) -> None:
        self._path, self._is_listed, self._stack = path, is_listed, stack
        self._lock = threading.Lock()
        self._looked = False
        self._fd: int | None = None

    def fd(self) -> int | None:
        """Return a descriptor, which the stack closes; None when the file has been replaced."""
        with self._lock:
            if not self._looked:
                self._looked = True
                self._fd = self._opened()
            return self._fd

    def _opened(self) -> int | None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        self._stack.callback(os.close, fd)
        try:
            return fd if self._is_listed(fd) else None
        except (ArtifactError, OSError):
            return None


def _is_artifact(size: int, checksum: int, fd: int) -> bool:
    """Return whether an open file is an artifact with this size and checksum. Raises ArtifactError."""
    return artifact_format.footer_of(fd).checksum == checksum and _has_size(size, checksum, fd)


def _has_size(size: int, _checksum: int, fd: int) -> bool:
    return os.fstat(fd).st_size == size


def _hashed(key: str) -> bytes:
    """Return the hash that identifies a key. The compression is part of what decides a part's bytes."""
    return hashlib.sha256(f"{COMPRESSION}\n{key}".encode()).digest()


def _newest_first(folder: Path) -> list[Path]:
    found = []
    for path in folder.glob(f"*{LIST_SUFFIX}"):
        with contextlib.suppress(OSError):  # removed a moment ago
            found.append((path.lstat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]

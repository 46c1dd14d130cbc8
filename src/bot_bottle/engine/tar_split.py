"""The tar of a layer, restored byte for byte from its unpacked files and its tar-split file.

Engines that unpack layers store a tar-split file for each: lines of JSON, gzipped, in the order of the tar.
One of type 2 is literal bytes (base64: headers, padding), one of type 1 a file's content, in the layer's
folder. The result has to be verified against the layer's digest, like any input.

Source: github.com/vbatts/tar-split, tar/storage (Entry); docker stores it as `tar-split.json.gz`, podman as
`<layer>.tar-split.gz`.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

from bot_bottle.image.gunzip import GzipError, open_gzip
from bot_bottle.image.layers import CHUNK

_LINE_LIMIT = 4 << 20  # bytes; a header has up to 1 MiB
_SOME = 256 << 10  # bytes of small pieces that are joined
_FILE, _BYTES = 1, 2
_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC if hasattr(os, "O_PATH") else 0


class SplitTar:
    """The tar, read in order. `recipe` is the tar-split file, `folder` the unpacked layer."""

    def __init__(self, recipe: Path, folder: Path) -> None:
        self._root = os.open(folder, _FOLDER_FLAGS)
        self._near: tuple[bytes, int] = (b"", self._root)  # cache of the last folder and its descriptor
        self._file: int | None = None
        self._name = b""
        self._size = self._left = 0  # bytes of the current file, and how many of them are left
        self._bytes = b""
        try:
            self._lines = open_gzip(recipe)  # closed by close()
        except OSError:
            os.close(self._root)
            raise

    def read(self, count: int = CHUNK, /) -> bytes:
        """Return some bytes, `count` at most; b"" only at the end. Raises OSError or EOFError."""
        parts: list[bytes] = []
        have = 0
        while have < min(count, _SOME) and (self._bytes or self._left or self._next()):
            if self._bytes:
                data, self._bytes = self._bytes[: count - have], self._bytes[count - have :]
            else:
                data = self._content(count - have)
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def skip(self, count: int, /) -> int:
        """Skip `count` bytes, without reading their files; return how many there were."""
        left = count
        while left and (self._bytes or self._left or self._next()):
            step = min(left, len(self._bytes) or self._left)
            if self._bytes:
                self._bytes = self._bytes[step:]
            else:
                self._left -= step
            left -= step
        return count - left

    def close(self) -> None:
        """Close what was opened."""
        self._close_file()
        self._leave()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
        self._lines.close()

    def _next(self) -> bool:
        """Go on to the next piece that is not empty; return whether there is one."""
        self._close_file()
        while not self._bytes and not self._left:
            try:
                line = self._lines.readline(_LINE_LIMIT)
                if not line:
                    return False
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError, GzipError) as error:
                raise OSError(f"its tar-split file is invalid: {error}") from error
        return True

    def _take(self, entry: dict[str, Any]) -> None:
        if entry["type"] == _BYTES:
            self._bytes = base64.b64decode(entry.get("payload") or "", validate=True)
        elif entry["type"] != _FILE:
            raise ValueError(f"an entry of type {entry['type']!r}")
        elif entry.get("payload"):  # a file without content has no checksum there
            raw = entry.get("name_raw")
            self._name = base64.b64decode(raw, validate=True) if raw else os.fsencode(entry["name"])
            self._size = self._left = int(entry["size"])
            if self._size <= 0 or b"\0" in self._name:
                raise ValueError("an invalid size")

    def _content(self, count: int) -> bytes:
        if self._file is None:
            self._file = self._open(self._name)
        data = os.pread(self._file, min(count, self._left), self._size - self._left)
        if not data:
            raise EOFError("a file has become shorter")
        self._left -= len(data)
        return data

    def _open(self, name: bytes) -> int:
        """Open a file of the layer. No link is followed, so nothing outside the layer's folder is opened."""
        head, _, last = name.rpartition(b"/")
        fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._go(head))
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError("a file of it is missing or of another type")
        return fd

    def _go(self, path: bytes) -> int:
        """Return the descriptor of a folder of the layer."""
        if path != self._near[0]:
            self._leave()
            for part in path.split(b"/"):
                if part == b"..":
                    raise OSError("it has a name that leads outside")
                if part not in (b"", b"."):
                    there = os.open(part, _FOLDER_FLAGS, dir_fd=self._near[1])
                    self._leave()
                    self._near = (b"", there)
            self._near = (path, self._near[1])
        return self._near[1]

    def _leave(self) -> None:
        if self._near[1] != self._root:
            os.close(self._near[1])
        self._near = (b"", self._root)

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

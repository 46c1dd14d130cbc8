"""Hashes of an archive's members, made while the archive is written, so that it need not be read again."""

from __future__ import annotations

import hashlib
import os
import tarfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

_BLOCK = 512
_SIZE_FIELD = slice(124, 136)
_PIECE = 256 << 10  # bytes: what a processor's cache holds


class MemberHashes:
    """Follows a tar archive as it grows, on a thread of its own, and hashes its members.

    What it finds is good whatever the file holds: each hash is that of the very byte range it is found
    under. A tar that it does not understand costs hashes, nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members = _Members()
        self._size = 0
        self._ended = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._follow, name="member-hashes", daemon=True)

    def grown(self, count: int) -> None:
        """Hear that `count` more bytes are in the file."""
        with self._news:
            self._size += count
            self._news.notify()

    @property
    def known(self) -> dict[tuple[int, int], str]:
        """The sha256 (hex) of each member's content, by its offset and size. Complete after the block."""
        return self._members.found

    def _follow(self) -> None:
        if not self._more(0):
            return
        buffer = memoryview(bytearray(_PIECE))
        at = 0
        with suppress(OSError), self._path.open("rb", buffering=0) as file:
            while size := self._more(at):
                count = os.preadv(file.fileno(), [buffer[: size - at]], at)
                if not count:
                    return
                self._members.feed(buffer[:count])
                at += count

    def _more(self, at: int) -> int:
        """Wait until there is a piece beyond `at`; give the file's size, or 0 at the end."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self._size - at >= _PIECE)
            return self._size if self._size > at else 0

    def __enter__(self) -> MemberHashes:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._news:
            self._ended = True
            self._size = 0 if kind else self._size
            self._news.notify()
        self._thread.join()


class _Members:
    """Follows a tar from header to header. Source: POSIX.1-2017 pax, "ustar Interchange Format"."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], str] = {}
        self._header = bytearray()
        self._position = 0
        self._member = (0, 0)
        self._hash: Any = None
        self._content = 0  # bytes still to come of the member,
        self._padding = 0  # and of what fills up its last block
        self._lost = False

    def feed(self, view: memoryview) -> None:
        """Take the next bytes."""
        while view and not self._lost:
            if self._content:
                taken = self._take_content(view)
            elif self._padding:
                taken = min(len(view), self._padding)
                self._padding -= taken
            else:
                taken = self._take_header(view)
            self._position += taken
            view = view[taken:]

    def _take_content(self, view: memoryview) -> int:
        part = view[: self._content]
        self._hash.update(part)
        self._content -= len(part)
        if not self._content:
            self.found[self._member] = self._hash.hexdigest()
        return len(part)

    def _take_header(self, view: memoryview) -> int:
        part = view[: _BLOCK - len(self._header)]
        self._header += part
        if len(self._header) == _BLOCK:
            self._begin(self._position + len(part))
            self._header.clear()
        return len(part)

    def _begin(self, start: int) -> None:
        try:
            size = tarfile.nti(bytes(self._header[_SIZE_FIELD]))  # type: ignore[attr-defined]
        except tarfile.HeaderError:
            size = -1
        if size < 0:
            self._lost = True
            return
        self._member = (start, size)
        self._content = size
        self._padding = -size % _BLOCK
        self._hash = hashlib.sha256()

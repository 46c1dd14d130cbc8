"""Where an artifact is written: a file that goes unless it was finished, and that explains a full disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bot_bottle.errors import ArtifactError, DiskFullError
from bot_bottle.host.files import copy_range, disk_full, start_writeback
from bot_bottle.host.progress import human_bytes
from bot_bottle.host.signals import defer_signals

_GOING = 32 << 20  # bytes that are worth the disk's while


class Part(NamedTuple):
    """A segment, and where a file has it: at `offset` of the open file `fd`."""

    data: bytes
    fd: int
    offset: int


class Sink:
    """A file being written. `consumed` is to be kept: how many of the `total` bytes of input are in it."""

    def __init__(self, file: Any, folder: Path | None, total: int) -> None:
        self.consumed = 0
        self._file, self._folder, self._total = file, folder, total
        self._written = self._going = 0

    def write(self, data: bytes) -> None:
        """Write all of `data`. Raises DiskFullError, saying what is needed and where, or ArtifactError."""
        left = memoryview(data)
        try:
            while left:
                count = self._file.write(left)
                self._count(count)
                left = left[count:]
        except OSError as error:
            raise self._failed(error, len(left)) from error

    def copy(self, part: Part) -> None:
        """Write what another file has. Where the file system can, both share it, and nothing is moved.

        Raises as `write` does.
        """
        done, size = 0, len(part.data)
        if self._folder is not None:
            try:
                done = copy_range(part.fd, part.offset, size, self._file.fileno())
            except OSError as error:
                raise self._failed(error, size) from error
            self._count(done)
        if done < size:
            self.write(part.data[done:])

    def _count(self, count: int) -> None:
        """Count what has been written, and have it go to the disk while more is being made."""
        self._written += count
        if self._folder is not None and self._written - self._going >= _GOING:
            start_writeback(self._file.fileno(), self._going, self._written - self._going)
            self._going = self._written

    def flush(self) -> None:
        """Hand on what the file object still holds. Raises as `write` does."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError, held: int = 0) -> DiskFullError | ArtifactError:
        place = f" in {self._folder}" if self._folder else ""
        if not disk_full(error):
            return ArtifactError(f"cannot write the artifact{place}", why=str(error))
        left = max(self._total - self.consumed, 0)
        why = f"{(error.strerror or str(error))}; up to {human_bytes(self._written + held + left)} are needed"
        if self._folder is not None:
            disk = os.statvfs(self._folder)
            why += f", {human_bytes(disk.f_bavail * disk.f_frsize + self._written)} are there"
        return DiskFullError(
            f"no room for the artifact{place}",
            why=why,
            next_step="make room there, or name a cache folder on a larger disk with BOT_BOTTLE_CACHE_DIR",
        )


@contextmanager
def sink(out: BinaryIO | Path, total: int) -> Iterator[Sink]:
    """Open where an artifact of `total` bytes of input is written; a path's file must be new.

    When the block fails, a file that was opened here is removed. Raises ArtifactError.
    """
    if not isinstance(out, Path):
        opened = Sink(out, None, total)
        yield opened
        opened.flush()
        return
    with ExitStack() as stack:
        with defer_signals():
            try:
                file = stack.enter_context(
                    out.open("xb", buffering=0)
                )  # raw: closing has nothing left to fail on
            except OSError as error:
                raise ArtifactError(f"cannot write {out}", why=str(error)) from error
            unfinished = stack.enter_context(ExitStack())
            unfinished.callback(out.unlink, missing_ok=True)
        yield Sink(file, out.parent, total)
        unfinished.pop_all()

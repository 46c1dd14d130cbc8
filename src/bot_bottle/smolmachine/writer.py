"""Writes a `.smolmachine` file in one pass, forward only: compressed by several threads, written in order.

Source: smolvm's .smolmachine format v1 (see format.py). The assets may be several zstd frames one after
another, so data that is already compressed is written unchanged. Frames are in segments (see frames.py).
"""

from __future__ import annotations

import ctypes
import os
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from msgspec import Struct

from bot_bottle.errors import ArtifactError, DiskFullError
from bot_bottle.host.files import copy_range, disk_full, start_writeback
from bot_bottle.host.progress import human_bytes
from bot_bottle.host.signals import defer_signals
from bot_bottle.image.hashing import BackgroundHash
from bot_bottle.image.spec import Digest
from bot_bottle.smolmachine.crc import crc32, crc32_combine
from bot_bottle.smolmachine.format import Footer
from bot_bottle.smolmachine.frames import SEGMENT_CRC, compress, padding_frame, segment
from bot_bottle.smolmachine.manifest import Manifest

PART = 8 << 20  # bytes, at most, that are compressed as one frame

# Each compression thread uses some 10 MB, and four of them are faster than every source of an image.
_THREADS_MAX = 4
_BLOCK = 512
_M_ARENA_MAX = -8  # malloc.h
_GOING = 32 << 20  # bytes after which a write-back is started


class Part(NamedTuple):
    """A segment in a file: at `offset` of the open file `fd`."""

    data: bytes
    fd: int
    offset: int


OnMade = Callable[[int, int], None]
"""Called with a segment's offset in the file, and its size in bytes."""

Make = Callable[[], bytes | Part]
"""Returns a segment, made or found, in any thread."""


class Output(Protocol):
    """The output; `write` writes all of its argument."""

    def write(self, data: bytes, /) -> object:
        """Write all of `data`."""


def _ignore(_offset: int, _size: int) -> None:
    pass


class Written(Struct, frozen=True):
    """A file that was written: size in bytes, footer, and the SHA-256 of all of it."""

    size: int
    footer: Footer
    digest: Digest


class Writer:
    """Writes the tar members one by one, then the manifest and the footer. A context manager.

    `threads` make segments besides the caller's own thread; the bytes do not depend on their number. `copy`
    writes a segment of another file, perhaps without moving its bytes.
    """

    def __init__(
        self, out: Output, *, threads: int = 1, copy: Callable[[Part], object] | None = None
    ) -> None:
        self._out = out
        self._copy = copy or (lambda part: out.write(part.data))
        self._sums = Sums()
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="compress")
        self._ahead = max(1, threads)
        _share_memory()
        self._coming: deque[tuple[Future[bytes | Part], OnMade]] = deque()
        self._plain: list[bytes] = []  # bytes of the tar that are not compressed yet
        self._held = 0
        self._expected = self._given = 0  # bytes of the current member
        self._name = ""
        self.size = 0

    def begin(self, name: str, size: int) -> None:
        """Begin a file of exactly `size` bytes. Raises ArtifactError if the one before had another size."""
        self._end_member()
        self._name, self._expected, self._given = name, size, 0
        self._hold(_header(name, size))

    def add(self, data: bytes) -> None:
        """Add some of the file's bytes."""
        self._given += len(data)
        self._hold(data)

    def add_segment(self, make: Make, size: int, on_made: OnMade = _ignore) -> None:
        """Add `size` of the file's bytes as the segment that `make` returns, in some thread.

        `on_made` is called in the caller's own thread before it is written, with its offset and size.
        """
        self._flush()
        self._given += size
        self._submit(make, on_made)

    def add_frames(self, frames: Iterable[bytes], size: int, on_made: OnMade = _ignore) -> None:
        """Add `size` of the file's bytes, already compressed: complete zstd frames, in chunks of any size.

        They become a segment. `on_made` is called when it has been written, with its offset and size.
        """
        self._flush()
        self._write_coming(0)
        self._given += size
        begun, crc = self.size, 0
        for chunk in frames:
            crc = crc32(chunk, crc)
            self._write(chunk)
        self._write(padding_frame(self.size - begun, crc))
        on_made(begun, self.size - begun)

    def beside(self, work: Callable[[], None]) -> Future[None]:
        """Run other work in one of the threads, so that no more of them work at once."""
        return self._pool.submit(work)

    def finish(self, manifest: Manifest) -> Written:
        """End the tar and write manifest and footer. Nothing can be written after that."""
        self._end_member()
        self._hold(bytes(2 * _BLOCK))
        self._write_coming(0)
        self._write(compress(b"".join(self._plain)))  # no padding is needed at the end
        assets_size = self.size
        raw = manifest.to_json()
        self._write(raw)
        footer = Footer(assets_size, len(raw), self._sums.crc)
        self._write(footer.pack())
        return Written(self.size, footer, Digest(f"sha256:{self._sums.sha256}"))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        with self._sums:
            self._pool.shutdown(cancel_futures=True)

    def _end_member(self) -> None:
        if self._given != self._expected:
            raise ArtifactError(
                f"{self._name} has the wrong size",
                why=f"{self._given} bytes instead of {self._expected}",
            )
        self._hold(bytes(-self._given % _BLOCK))

    def _hold(self, data: bytes) -> None:
        self._plain.append(data)
        self._held += len(data)
        if self._held >= PART:
            held = b"".join(self._plain)
            whole = self._held - self._held % PART
            for at in range(0, whole, PART):
                self._submit(partial(segment, held[at : at + PART]))
            self._plain, self._held = [held[whole:]], self._held - whole

    def _flush(self) -> None:
        """Compress what is buffered: before a segment of its own, or at the end."""
        if self._held:
            self._submit(partial(segment, b"".join(self._plain)))
        self._plain, self._held = [], 0

    def _submit(self, make: Make, on_made: OnMade = _ignore) -> None:
        self._write_coming(self._ahead)
        self._coming.append((self._pool.submit(make), on_made))

    def _write_coming(self, leave: int) -> None:
        while len(self._coming) > leave:
            future, on_made = self._coming.popleft()
            made = future.result()
            data = made.data if isinstance(made, Part) else made
            on_made(self.size, len(data))
            self._sums.add_segment(data)
            self.size += len(data)
            if isinstance(made, Part):
                self._copy(made)
            else:
                self._out.write(data)

    def _write(self, data: bytes) -> None:
        self._sums.add(data)
        self.size += len(data)
        self._out.write(data)


def threads() -> int:
    """Return how many threads compress: one for each usable core, up to a limit for memory."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, _THREADS_MAX)


def _share_memory() -> None:
    """Make all threads use one malloc arena, if the C library can.

    glibc gives each thread an arena and keeps there what the thread has freed, which adds up.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def _header(name: str, size: int) -> bytes:
    """Return a reproducible GNU tar header, without time and owner."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


class Sums:
    """CRC-32 and SHA-256 of all pieces, in their order. A context manager."""

    def __init__(self) -> None:
        self._crc = 0
        self._sha256 = BackgroundHash("sha256")

    def add(self, data: bytes) -> None:
        """Add a piece."""
        self._sha256.update(data)
        self._crc = crc32(data, self._crc)

    def add_segment(self, data: bytes) -> None:
        """Add a segment, whose CRC-32 is the same for all."""
        self._sha256.update(data)
        self._crc = crc32_combine(self._crc, SEGMENT_CRC, len(data))

    @property
    def crc(self) -> int:
        """The CRC-32 of all pieces so far (IEEE 802.3)."""
        return self._crc

    @property
    def sha256(self) -> str:
        """The SHA-256 of all pieces so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def __enter__(self) -> Sums:
        return self

    def __exit__(self, *_: object) -> None:
        self._sha256.close()


class Sink:
    """A file being written. The caller updates `consumed`, the bytes of input in it, out of `total`."""

    def __init__(self, file: Any, folder: Path | None, total: int) -> None:
        self.consumed = 0
        self._file, self._folder, self._total = file, folder, total
        self._written = self._going = 0

    def write(self, data: bytes) -> None:
        """Write all of `data`. Raises DiskFullError with the space that is needed, ArtifactError."""
        left = memoryview(data)
        try:
            while left:
                count = self._file.write(left)
                self._count(count)
                left = left[count:]
        except OSError as error:
            raise self._failed(error, len(left)) from error

    def copy(self, part: Part) -> None:
        """Write data of another file. Where the file system can, both share it, and nothing is copied.

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
        """Count what has been written, and start its write-back while more is being made."""
        self._written += count
        if self._folder is not None and self._written - self._going >= _GOING:
            start_writeback(self._file.fileno(), self._going, self._written - self._going)
            self._going = self._written

    def flush(self) -> None:
        """Write what the file object has buffered. Raises as `write` does."""
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
            why += f", {human_bytes(disk.f_bavail * disk.f_frsize + self._written)} are free"
        return DiskFullError(
            f"no room for the artifact{place}",
            why=why,
            next_step="free some space, or set BOT_BOTTLE_CACHE_DIR to a folder on a larger disk",
        )


@contextmanager
def sink(out: BinaryIO | Path, total: int) -> Iterator[Sink]:
    """Open the output of an artifact of `total` bytes of input; a path must not exist yet.

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
                )  # raw: padding_frame has nothing to flush that could fail
            except OSError as error:
                raise ArtifactError(f"cannot write {out}", why=str(error)) from error
            unfinished = stack.enter_context(ExitStack())
            unfinished.callback(out.unlink, missing_ok=True)
        yield Sink(file, out.parent, total)
        unfinished.pop_all()

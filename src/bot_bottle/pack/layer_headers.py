"""What has been learned of layers, by what decides it, so that it is not read out of them again.

The headers of a layer's tar are kept as a segment (see frames.py): a file named by its key, written elsewhere
and renamed into its place when the layer has been verified. It carries its checksum, so nothing is synced:
what a crash has damaged is noticed when it is read, removed, and made again. Whoever uses the store shares a
lock on it, which whoever prunes it holds alone. A store that cannot be written, for its disk is full perhaps,
keeps nothing and costs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bot_bottle.errors import CacheError
from bot_bottle.host.locks import shared_lock, try_lock
from bot_bottle.smolmachine.frames import COMPRESSION, is_segment

LIMIT = 10**9  # bytes that are kept when nobody says otherwise

_LOCK = "lock"
_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PrunedHeaders:
    """What a prune removed, or would: how many segments, of how many bytes. `in_use`: none, others use it."""

    count: int = 0
    freed: int = 0
    in_use: bool = False


class HeaderStore:
    """The segments in `folder`, made when it is first needed, for the user alone.

    `scratch` is a folder of its own, on the same file system, for what is being written; whoever gives it
    removes it. Its methods may be called from several threads.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self._scratch = scratch
        self._broken = False

    @contextmanager
    def using(self) -> Iterator[None]:
        """Keep everything from being pruned until the block ends; then come down to LIMIT bytes."""
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = self.folder / _LOCK
                lock.touch(mode=0o600)
                stack.enter_context(shared_lock(lock))
            except OSError as error:
                raise CacheError(
                    f"cannot use the cache in {self.folder}",
                    why=str(error),
                    next_step="make it writable, or name another with BOT_BOTTLE_CACHE_DIR",
                ) from error
            stack.callback(self._forget)
            yield
        prune(self.folder, keep_bytes=LIMIT)

    def _forget(self) -> None:
        """Remove what was kept and not published."""
        for temp in self._scratch.iterdir():
            temp.unlink(missing_ok=True)

    def holds(self, key: str) -> bool:
        """Tell whether there is a segment for a key, sound or not."""
        return self._path(key).exists()

    def read(self, key: str) -> bytes | None:
        """Give a key's segment; None if there is none, or none that is sound: then it is removed."""
        path = self._path(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            data = os.read(fd, os.fstat(fd).st_size)
            os.utime(fd)  # when it was last used
        except OSError:
            return None
        finally:
            os.close(fd)
        if is_segment(data):
            return data
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def keep(self, key: str, data: bytes) -> None:
        """Keep a segment, if there is room. Nobody finds it before it is published."""
        if self._broken:
            return
        temp = self._scratch / self._path(key).name
        try:
            with temp.open("wb", buffering=0) as file:
                if file.write(data) < len(data):
                    raise OSError("no room for all of it")
        except OSError:
            self._broken = True
            temp.unlink(missing_ok=True)

    def publish(self) -> None:
        """Let what has been kept be found, now that it is known to be right."""
        with contextlib.suppress(OSError):
            for temp in self._scratch.iterdir():
                temp.replace(self.folder / temp.name)

    def _path(self, key: str) -> Path:
        return self.folder / hashlib.sha256(f"{COMPRESSION}\n{key}".encode()).hexdigest()


def prune(
    folder: Path, *, keep_bytes: int | None = None, older_than: float | None = None, dry_run: bool = False
) -> PrunedHeaders:
    """Remove segments, the least recently used first.

    Those go that were last used more than `older_than` seconds ago, then as many as it takes to come down to
    `keep_bytes`. While somebody uses the store, all stay.
    """
    segments = _segments(folder)
    oldest = time.time() - older_than if older_than is not None else 0.0
    left = sum(size for _, size, _ in segments)
    gone: list[tuple[Path, int]] = []
    for used, size, path in segments:
        if used < oldest or (keep_bytes is not None and left > keep_bytes):
            gone.append((path, size))
            left -= size
    if gone and not dry_run:
        with try_lock(folder / _LOCK) as free:
            if not free:
                return PrunedHeaders(in_use=True)
            for path, _ in gone:
                path.unlink(missing_ok=True)
    return PrunedHeaders(len(gone), sum(size for _, size in gone))


def _segments(folder: Path) -> list[tuple[float, int, Path]]:
    """List the segments as (time of last use, bytes, path), the least recently used first."""
    try:
        with os.scandir(folder) as found:
            ours = [entry for entry in found if _NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    listed = []
    for entry in ours:
        with contextlib.suppress(FileNotFoundError):
            facts = entry.stat(follow_symlinks=False)
            listed.append((facts.st_mtime, facts.st_size, Path(entry.path)))
    return sorted(listed)

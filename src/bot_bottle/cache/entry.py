"""One artifact in the cache, and the record beside it: a JSON file that says what it was made from."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.cache.key import Key
from bot_bottle.errors import BottleError, CacheError, ImageError
from bot_bottle.host.files import read_regular
from bot_bottle.host.locks import shared_lock
from bot_bottle.image.spec import Digest

LIST_SUFFIX = ".parts"  # of the list of an artifact's chunks, beside it
DERIVED_SUFFIXES = (".erofs",)  # of files made from an artifact (see derived.py)

_RECORD_LIMIT = 1 << 20  # bytes
_END_OF_TIME = 1e12  # seconds since 1970; no clock is later


class Entry(Struct, frozen=True):
    """An artifact in the cache. `hit` is true if it existed before.

    `size` is in bytes, `digest` the file's SHA-256, `source` what it was made from (a folder's absolute path,
    an image's name). `created` and `last_used` are in seconds since 1970. `derived` is the size of the files
    made from it, which go when it goes.
    """

    path: Path
    key: Key
    hit: bool
    size: int
    digest: Digest
    source: str
    created: float
    last_used: float
    derived: int = 0

    @property
    def total(self) -> int:
        """The size of the artifact and of the files made from it, in bytes."""
        return self.size + self.derived

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Protect the artifact from prune until the block ends.

        Raises CacheError when it was removed, also where the block misses it or what was made from it: other
        programs know no lock.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(shared_lock(self.path))
            except OSError as error:
                raise self._gone(error) from error
            try:
                yield
            except (FileNotFoundError, BottleError) as error:
                own = (self.path, *derived_paths(self.path))
                if any(str(path) in str(error) and not os.path.lexists(path) for path in own):
                    raise self._gone(error) from error
                raise

    def _gone(self, error: Exception) -> CacheError:
        why = f"{error.message}\n{error.why}" if isinstance(error, BottleError) else str(error)
        return CacheError(
            f"the artifact {self.path.name} is no longer in the cache",
            why=why,
            next_step="run the command again, which makes the artifact again",
        )


def record_path(artifact: Path) -> Path:
    """Return the path of an artifact's record."""
    return artifact.with_suffix(".json")


def record_of(entry: Entry) -> bytes:
    """Return the bytes of an entry's record."""
    document = {
        "key": entry.key.document(),
        "size": entry.size,
        "digest": str(entry.digest),
        "source": entry.source,
        "created": entry.created,
    }
    return json.dumps(document, indent=1).encode()


def read_entry(artifact: Path, *, hit: bool = False) -> Entry | None:
    """Read an artifact's record; None when either file is missing, or was not written by the cache.

    The artifact's bytes are not checked.
    """
    try:
        raw, used = read_regular(record_path(artifact), _RECORD_LIMIT)
        facts = artifact.lstat()
        document = json.loads(raw)
    except (OSError, ValueError, RecursionError):
        return None
    if not stat.S_ISREG(facts.st_mode) or not isinstance(document, dict):
        return None
    key = Key.parse(document.get("key"))
    digest = _digest(document.get("digest"))
    source, created = document.get("source"), document.get("created")
    if key is None or key.name != artifact.name or digest is None or not isinstance(source, str):
        return None
    if not isinstance(created, int | float) or not 0 <= created < _END_OF_TIME:
        return None
    return Entry(
        artifact, key, hit, facts.st_size, digest, source, float(created), used, _size_of_derived(artifact)
    )


def _digest(value: Any) -> Digest | None:
    try:
        return Digest(value)
    except ImageError:
        return None


def list_path(artifact: Path) -> Path:
    """Return the path of an artifact's list of chunks."""
    return artifact.with_suffix(LIST_SUFFIX)


def sum_path(derived: Path) -> Path:
    """Return the path of the record of a file made from an artifact."""
    return derived.with_name(f"{derived.name}-sum")


def derived_paths(artifact: Path) -> list[Path]:
    """Return the paths of the files that may have been made from an artifact, and of their records."""
    paths = [artifact.with_suffix(suffix) for suffix in DERIVED_SUFFIXES]
    return [*paths, *map(sum_path, paths)]


def _size_of_derived(artifact: Path) -> int:
    """Return how many bytes on the disk they have: files with holes need less than their size."""
    size = 0
    for path in derived_paths(artifact):
        with suppress(FileNotFoundError):
            size += path.lstat().st_blocks * 512
    return size

"""One artifact in the cache, and the record beside it: a JSON file that says what it was made from."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot_bottle.cache.key import Key
from bot_bottle.errors import CacheError, ImageError
from bot_bottle.host.files import read_regular
from bot_bottle.host.locks import shared_lock
from bot_bottle.image.spec import Digest

LIST_SUFFIX = ".parts"  # of the list of an artifact's chunks, beside it

_RECORD_LIMIT = 1 << 20  # bytes
_END_OF_TIME = 1e12  # seconds since 1970; no clock is later


@dataclass(frozen=True, slots=True)
class Entry:
    """An artifact in the cache. `hit` is true if it existed before.

    `size` is in bytes, `digest` the file's SHA-256, `source` what it was made from (a folder's absolute path,
    an image's name). `created` and `last_used` are in seconds since 1970.
    """

    path: Path
    key: Key
    hit: bool
    size: int
    digest: Digest
    source: str
    created: float
    last_used: float

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Protect the artifact from prune until the block ends. Raises CacheError when it was removed."""
        with ExitStack() as stack:
            try:
                stack.enter_context(shared_lock(self.path))
            except OSError as error:
                raise CacheError(
                    f"the artifact {self.path.name} is no longer in the cache",
                    why=str(error),
                    next_step="run the command again, which makes the artifact again",
                ) from error
            yield


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
    return Entry(artifact, key, hit, facts.st_size, digest, source, float(created), used)


def _digest(value: Any) -> Digest | None:
    try:
        return Digest(value)
    except ImageError:
        return None


def list_path(artifact: Path) -> Path:
    """Return the path of an artifact's list of chunks."""
    return artifact.with_suffix(LIST_SUFFIX)

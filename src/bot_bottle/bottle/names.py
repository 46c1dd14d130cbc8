"""The names of living bottles: each is one bottle's at a time, for as long as its process lives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bot_bottle.errors import CacheError, SpecError
from bot_bottle.host import paths
from bot_bottle.host.locks import claimed


@contextmanager
def taken(name: str) -> Iterator[None]:
    """Hold a name. Raises SpecError when a bottle of this name lives."""
    with held(name) as free:
        if not free:
            raise SpecError(
                f"a bottle named {name} is running", next_step=f"give another --name, or bottle stop {name}"
            )
        yield


def lives(name: str) -> bool:
    """Whether a bottle of this name lives."""
    with held(name) as free:
        return not free


def in_use() -> list[str]:
    """List the names that are held; one that was killed keeps its own until somebody asks for it.

    Nothing is held for that. Raises OSError.
    """
    return [path.name for path in (paths.runs_dir() / "names").iterdir()]


@contextmanager
def held(name: str) -> Iterator[bool]:
    """Hold a name, so that no bottle of this name begins; or say that one lives. Raises CacheError."""
    folder = paths.runs_dir() / "names"
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = stack.enter_context(claimed(folder / name))
        except OSError as error:
            raise CacheError(
                f"cannot work in {folder}",
                why=str(error),
                next_step="make it writable, or name another with BOT_BOTTLE_CACHE_DIR",
            ) from error
        yield free

"""Names of running bottles: each is locked for as long as the process that runs its bottle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from bot_bottle.errors import SpecError
from bot_bottle.host import paths
from bot_bottle.host.locks import try_lock_file
from bot_bottle.host.system_errors import folder_error


@contextmanager
def lock_name(name: str, *, new: bool = True) -> Iterator[None]:
    """Lock a name for the block, for a `new` bottle or to work on an old one's.

    Raises SpecError while a bottle of this name runs.
    """
    with try_lock_name(name) as free:
        if not free:
            raise SpecError(
                f"a bottle named {name} is running",
                next_step=f"give another --name, or bottle stop {name}"
                if new
                else f"bottle stop {name} first",
            )
        yield


def is_running(name: str) -> bool:
    """Return whether a bottle of this name runs."""
    with try_lock_name(name) as free:
        return not free


def locked_names() -> list[str]:
    """Return the names that have a lock file; a killed bottle's file stays until its name is locked again.

    No lock is taken. Raises OSError.
    """
    return [path.name for path in (paths.runs_dir() / "names").iterdir()]


def sweep() -> None:
    """Remove the lock files of killed bottles. Raises CacheError."""
    with suppress(OSError):
        for name in locked_names():
            is_running(name)  # removes the file of one that does not


@contextmanager
def try_lock_name(name: str) -> Iterator[bool]:
    """Lock a name for the block, and yield whether that succeeded: not while a bottle of this name runs.

    Raises CacheError and DiskFullError.
    """
    folder = paths.runs_dir() / "names"
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = stack.enter_context(try_lock_file(folder / name))
        except OSError as error:
            raise folder_error(f"cannot work in {folder}", folder, error) from error
        yield free

"""Bottles by their names: list, run other commands, stop, show and merge their work, remove."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from msgspec import Struct

from bot_bottle.backend.base import BottleConfig
from bot_bottle.backend.choice import backend_at
from bot_bottle.bottle import logs, names, records
from bot_bottle.bottle.gc import sweep
from bot_bottle.bottle.names import is_running, lock_name
from bot_bottle.bottle.pushes import unforwarded
from bot_bottle.bottle.records import RunRecord
from bot_bottle.bottle.spec import check_slug
from bot_bottle.cache.prune import sweep_scraps
from bot_bottle.errors import BottleError, ReceiptError, SpecError
from bot_bottle.host import paths, process_tree
from bot_bottle.host.files import remove_tree
from bot_bottle.host.progress import Progress
from bot_bottle.host.wait import wait_until
from bot_bottle.workspace import review
from bot_bottle.workspace.clone import Clone, whole
from bot_bottle.workspace.cloned import clone_of
from bot_bottle.workspace.fetch import Work, collect

State = Literal["running", "ended", "killed"]

_POLL = 0.05  # seconds
_ORDERLY = 60.0  # seconds in which a bottle has to clean up


class BottleState(Struct, frozen=True):
    """A bottle, by its last run. `kept` lists what is left of it: a `clone`, `held` pushes, a `log`."""

    name: str
    state: State
    record: RunRecord
    kept: tuple[str, ...]


def list_bottles(*, everything: bool = False) -> list[BottleState]:
    """Return the bottles that run, were killed, or have left something; with `everything` all of them."""
    found = []
    for record in records.newest_of_each():
        with suppress(SpecError):  # not a record of ours
            name = check_slug(record.name)
            each = BottleState(name, state(record), record, _kept(name))
            if everything or each.kept or not record.ended:
                found.append(each)
    return found


def state(record: RunRecord) -> State:
    """Return whether a run continues, has ended, or was killed before it could record its end."""
    if record.ended:
        return "killed" if record.exit_status is None else "ended"
    return "running" if names.is_running(check_slug(record.name)) else "killed"


def _kept(name: str) -> tuple[str, ...]:
    folder = paths.bottle_dir(name)
    return tuple(each for each in ("clone", "held", "log") if (folder / each).exists())


def log(
    name: str, *, follow: bool = False, on_dropped: Callable[[int], None] = lambda _: None
) -> Iterator[bytes]:
    """Yield the output of a detached bottle; with `follow` until it has exited. Raises ReceiptError.

    `on_dropped` is called with the number of bytes that are no longer stored.
    """
    check_slug(name)
    return logs.read(name, lambda: follow and names.is_running(name), on_dropped)


def execute(
    name: str,
    command: Sequence[str],
    progress: Progress,
    *,
    user: str = "",
    workdir: str = "",
    env: Mapping[str, str],
    tty: bool,
) -> int:
    """Run another command in a running bottle on our own streams, and return its exit status.

    Its user and folder are those of the bottle's own command, unless given. Its variables are `env`, and what
    the backend gives to every command. Raises SpecError for a bottle that does not run, or cannot run another
    command.
    """
    record = records.newest(check_slug(name))
    if state(record) != "running":
        raise SpecError(f"the bottle {name} is not running", next_step="see bottle ls")
    machine = record.machine()
    config = BottleConfig(
        slug=name,
        command=tuple(command),
        env=env,
        user=user or machine.user,
        workdir=workdir or machine.workdir,
        cpus=0,
        memory_mib=0,
    )
    return backend_at(machine.place).execute(machine, config, progress, tty=tty)


def stop(name: str, patience: float) -> bool:
    """Stop a bottle, return whether it ran: SIGTERM to its command, after `patience` (s) to the bottle.

    A bottle that does not exit within a minute is killed, and its leftovers are removed. When this returns,
    the process of the bottle has exited too.
    """
    if not names.is_running(check_slug(name)):
        records.newest(name)  # raises if there never was one
        return False
    record = records.newest(name)
    pid, started = record.pid, record.started

    def lasts() -> bool:
        # a bottle releases its name before its process exits
        return names.is_running(name) or (started != "" and process_tree.start_time(pid) == started)

    for signum, seconds in ((signal.SIGTERM, patience), (signal.SIGTERM, _ORDERLY), (signal.SIGKILL, 10.0)):
        if process_tree.start_time(pid) == started:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)
        if wait_until(lambda: not lasts(), seconds, pause=_POLL):
            break
    _settle()
    return True


def remove(name: str, *, force: bool = False) -> list[str]:
    """Remove what an exited bottle left: its log, and its clone.

    Work that would be lost with the clone is returned instead, and nothing removed, unless `force`. Raises
    BottleError for a bottle that runs, and for one that has left nothing.
    """
    kept = _kept(check_slug(name))
    if not kept:
        raise ReceiptError(f"no bottle named {name} has left anything", next_step="see bottle ls")
    lost = [] if force else unforwarded(name)
    if not lost and "clone" in kept:
        lost = _remove_clone(name, force=force)
    if not lost:
        _remove_folder(name)
        _settle()
    return lost


def _remove_folder(name: str) -> None:
    with names.lock_name(name, new=False):
        shutil.rmtree(paths.bottle_dir(name), ignore_errors=True)


def prune(*, dry_run: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Remove what exited bottles left; yield each name with the reasons why it has to stay, if any.

    Leftovers of dead commands are removed first, those in the cache too.
    """
    if not dry_run:
        _settle()
        sweep_scraps(paths.artifacts_dir())
    folder = paths.state_dir() / "bottles"
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _is_name(path) and not names.is_running(path.name):
            try:
                yield path.name, unmerged_work(path.name) if dry_run else remove(path.name)
            except BottleError as error:
                yield path.name, [str(error)]


def _settle() -> None:
    """Remove leftovers of dead commands, and record that their bottles have ended."""
    sweep()
    names.sweep()
    for each in list_bottles():
        if each.state == "killed":
            records.settle(each.name, Progress())


def _is_name(path: Path) -> bool:
    with suppress(SpecError):
        return bool(check_slug(path.name))
    return False


def fetch_work(name: str) -> tuple[Clone, Work]:
    """Fetch what a bottle has done so far into the user's repository; of a running one, only its commits.

    Raises WorkspaceError.
    """
    clone = clone_of(check_slug(name))
    return collect(clone, ended=not is_running(name))


@contextmanager
def diff(name: str, *options: str) -> Iterator[BinaryIO]:
    """Yield a bottle's changes, as `git diff` with these options shows them: bytes that an agent chose."""
    clone, work = fetch_work(name)
    with review.diff(clone, work, *options) as stream:
        yield stream


def apply(name: str) -> list[str]:
    """Merge a bottle's changes into the user's folder and return the names that changed there.

    Raises ConflictError, before anything is changed.
    """
    return review.apply(*fetch_work(name))[1]


def unmerged_work(name: str) -> list[str]:
    """Return what would be lost with an exited bottle's clone; nothing if it has none."""
    held = unforwarded(check_slug(name))
    if not whole(paths.bottle_dir(name) / "clone"):
        return held
    return [*held, *review.unfetched(clone_of(name))]


def _remove_clone(name: str, *, force: bool = False) -> list[str]:
    """Remove an exited bottle's clone, and all of its work that is on no branch of the user's.

    Unless it is forced, work that would be lost is returned instead, and nothing removed. A clone that was
    never finished has no work. Raises WorkspaceError, and SpecError for a bottle that runs.
    """
    with lock_name(check_slug(name), new=False):
        folder = paths.bottle_dir(name) / "clone"
        if not whole(folder):
            remove_tree(folder)
            return []
        clone = clone_of(name)
        lost = [] if force else review.unfetched(clone)
        if not lost:
            review.discard(clone)
    return lost

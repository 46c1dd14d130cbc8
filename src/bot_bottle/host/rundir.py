"""A folder for each running command, and the removal of what a killed command left.

Everything temporary that a command makes is in its run folder, or is recorded there before it is made;
programs are recorded when they start. The kernel keeps the folder's lock for as long as the command lives, so
a folder whose lock is free belongs to nobody, and the next command removes it with everything it records.

With `BOT_BOTTLE_KEEP_RUN=1` the folder itself is kept for debugging: all that it names is ended and removed
as always, then it is renamed, so that no later command removes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bot_bottle.host import paths, process_tree
from bot_bottle.host.locks import try_lock
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.system_errors import folder_error

KEEP_VARIABLE = "BOT_BOTTLE_KEEP_RUN"

_STRAYS = "strays.jsonl"
_KEEP = "keep"  # a file in a folder that is kept

Sweeper = Callable[[dict[str, Any]], None]


class RunDir:
    """One command's folder. `path` is private to the user (mode 0700)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, kind: str, **facts: Any) -> None:
        """Record something outside the folder, before it is made, so that a later command can remove it."""
        self._append({"kind": kind, **facts}, sync=True)

    def note(self, pid: int) -> None:
        """Record a program that was just started. No sync: a crash of the machine ends programs as well."""
        with contextlib.suppress(OSError):  # such as a full disk; the program is still ended by its parent
            self._append({"kind": "process", "pid": pid, "started": process_tree.start_time(pid)}, sync=False)

    def _append(self, stray: dict[str, Any], *, sync: bool) -> None:
        with (self.path / _STRAYS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(stray) + "\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())

    def folder(self, name: str) -> Path:
        """Return a folder inside it, made if it is missing."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path


@contextmanager
def run_dir() -> Iterator[RunDir]:
    """Yield a new folder, removed when the block ends. It records the programs started meanwhile."""
    with ExitStack() as stack:
        run = RunDir(_new(stack))
        with process_tree.observe_starts(run.note):
            yield run


def _new(stack: ExitStack) -> Path:
    """Make a folder and lock it. A sweep that gets the lock first takes its command for dead."""
    base = paths.runs_dir()
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            with defer_signals(), ExitStack() as held:
                path = Path(tempfile.mkdtemp(prefix="run-", dir=base))
                if held.enter_context(_locked(path)) and path.exists():
                    if os.environ.get(KEEP_VARIABLE, "") not in ("", "0"):
                        (path / _KEEP).touch()
                    held.callback(_remove, path)
                    stack.push(held.pop_all())
                    return path
    except OSError as error:
        raise folder_error(f"cannot work in {base}", base, error) from error


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a new folder for the block, or remove it: not every file system has locks."""
    with ExitStack() as stack:
        try:
            locked = stack.enter_context(try_lock(path))
        except OSError:
            path.rmdir()
            raise
        yield locked


def sweep(sweepers: dict[str, Sweeper]) -> int:
    """Remove what dead commands left, and return how many there were.

    `sweepers` has a function for each kind of leftover. If one fails, its folder is tried again when others
    were removed, as an image cannot be before the container of another folder; else it stays for the next
    sweep.
    """
    swept = 0
    base = paths.runs_dir()
    folders = sorted(base.glob("run-*")) if base.is_dir() else []
    while folders:
        done = {path: _sweep_folder(path, sweepers) for path in folders}
        removed = list(done.values()).count(True)
        swept += removed
        folders = [path for path, is_removed in done.items() if is_removed is False] if removed else []
    return swept


def _sweep_folder(path: Path, sweepers: dict[str, Sweeper]) -> bool | None:
    """Remove what a dead command left; return whether that succeeded, and None if there is none to remove."""
    with try_lock(path) as dead:  # else its command is alive
        if not dead or not path.is_dir():
            return None
        if not _sweep_strays(path, sweepers):
            return False
        _remove(path)
        return True


def _sweep_strays(path: Path, sweepers: dict[str, Sweeper]) -> bool:
    try:
        lines = (path / _STRAYS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    for line in reversed(lines):
        with contextlib.suppress(ValueError):  # the last line may have been cut short by the kill
            stray = json.loads(line)
            try:
                sweepers[stray["kind"]](stray)
            except Exception:
                return False
    return True


def _remove(path: Path) -> None:
    with defer_signals():
        if (path / _KEEP).exists():
            _keep(path)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _keep(path: Path) -> None:
    """Rename a folder, so that it is not swept, and print its new path on standard error."""
    kept = path.with_name(path.name.replace("run-", "kept-", 1))
    with contextlib.suppress(OSError):  # the folder was removed, or nobody reads the message
        path.rename(kept)
        if sys.stderr is not None:  # it was closed when the process started
            sys.stderr.write(f"bottle: kept the run folder {kept}\n")
            sys.stderr.flush()

"""An agent's state on its way into a bottle and back: a tar in the `.git` of its clone, for a moment.

The clone is the one folder that a bottle shares on every backend. Scripts of ours unpack and pack the tar in
the bottle, as the command's user: before the command starts, and when it has exited.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bot_bottle.agent.launcher import HAVE_HOME
from bot_bottle.agent.state import LIMIT, State
from bot_bottle.backend.base import RunningBottle
from bot_bottle.errors import AgentError, BottleError
from bot_bottle.host.files import open_folder, open_regular
from bot_bottle.host.progress import Progress, human_bytes
from bot_bottle.host.text import printable
from bot_bottle.network.probes import BUSYBOX
from bot_bottle.workspace.spec import PLACE, Mount

_SHOWN = 300  # characters of a complaint in the bottle
_FILE = "bottle-state"
_GIT = ".git"
_IN_BOTTLE = f"{PLACE}/{_GIT}/{_FILE}"
_BUSYBOX = shlex.join(BUSYBOX)
_OURS = "unset LD_PRELOAD LD_LIBRARY_PATH; umask 077"  # the image's libraries are not for our program

_UNPACK = f"""\
{HAVE_HOME}\
({_OURS}; cd "$HOME" && {_BUSYBOX} tar -x -o -f {_IN_BOTTLE}) </dev/null >&2 ||
    echo "bottle: the agent's state could not be unpacked in $HOME" >&2
({_OURS}; {_BUSYBOX} rm -f {_IN_BOTTLE})
exec "$@"
"""
_PACK = f"""\
{HAVE_HOME}\
{_OURS}
{_BUSYBOX} rm -rf {_IN_BOTTLE}
cd "$HOME" || exit
found=
for path do
    shift
    if [ -d "$path" ] || [ -f "$path" ]; then set -- "$@" "$path"; found=yes; fi
done
[ -z "$found" ] || {_BUSYBOX} tar -c -f - "$@" | {_BUSYBOX} head -c {LIMIT + 1} >{_IN_BOTTLE}
"""


class StateTransfer:
    """The transfer of one agent's state for one bottle."""

    def __init__(self, state: State, progress: Progress) -> None:
        self._state = state
        self._progress = progress
        self._packed = False

    @contextmanager
    def placed(self, mount: Mount | None) -> Iterator[tuple[str, ...]]:
        """Put what is kept into a bottle's new clone, and yield what unpacks it before the command.

        That is put before the command's arguments. When the block ends, and with it the bottle, what `pack`
        has packed is kept; where it cannot be, it is said.
        """
        state = self._state
        if mount is None:
            yield ()
            return
        size = _put(state, mount.source / _GIT / _FILE)
        if size:
            note = f"of earlier bottles, {human_bytes(size)} (see bottle agents show {state.agent})"
            self._progress.note(f"{'state':<8} {note}")
        try:
            yield ("/bin/sh", "-c", _UNPACK, "sh") if size else ()
        finally:
            try:
                self._take(state, mount.source)
            except (BottleError, OSError) as error:
                self._not_kept(state, str(error))

    def pack(self, bottle: RunningBottle) -> None:
        """Pack the state in a bottle whose command has exited."""
        try:
            done = bottle.run_after(("/bin/sh", "-c", _PACK, "sh", *self._state.paths))
        except BottleError as error:
            self._not_kept(self._state, str(error))
            return
        self._packed = done.code == 0
        if not self._packed:
            why = printable(done.complaint, limit=_SHOWN) or f"packing it failed with status {done.code}"
            self._not_kept(self._state, why)

    def _take(self, state: State, work: Path) -> None:
        """Keep what is in the clone, where an agent may have put anything, and remove it there."""
        with suppress(FileNotFoundError), open_folder(work) as top, open_folder(_GIT, top) as git:
            try:
                if self._packed:
                    with open_regular(_FILE, git) as brought:
                        state.keep(brought)
            finally:
                os.unlink(_FILE, dir_fd=git)

    def _not_kept(self, state: State, why: str) -> None:
        self._progress.warn(f"the state of {state.agent} is not kept: {why}")


def _put(state: State, path: Path) -> int:
    """Write what is kept to a new file, and return its size: 0 if there is nothing. Raises AgentError."""
    try:
        with path.open("xb") as file:
            size = state.copy_to(file)
        if not size:
            path.unlink()
    except OSError as error:
        raise AgentError(
            f"the state of {state.agent} cannot be put into the bottle",
            why=str(error),
            next_step="run it with --no-state",
        ) from error
    return size

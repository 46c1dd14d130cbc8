"""The gate of a container: its first program, ours, which looks at the walls and waits to be let through.

It runs in the place of the command, as the command's user, before it: tries every wall from inside, tells
what it found, and becomes the command once the host says so. What the command alone may know (secrets) comes
with that word, through a pipe, so that no engine ever sees it. If the host says nothing, nothing starts.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot_bottle.backend.base import BottleConfig
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import ImageError, SpecError, WallsError
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.probes import BUSYBOX, KIT
from bot_bottle.network.toolkit import kit
from bot_bottle.vm.package import link

ENTRYPOINT = (*BUSYBOX, "sh", f"{KIT}/gate")

_SAYS, _HEARS = "says", "hears"
_LIMIT = 64 << 10  # bytes that are read of what it says
_TIMEOUT = 60.0  # seconds; a busy machine starts a container in some
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_READY = "bottle_gate_open"

# `hears` is read as shell: that is how it gets variables without a program that could be seen
_SCRIPT = f"""\
( :
@PROBES@
) > {KIT}/{_SAYS} 2>/dev/null < /dev/null
unset {_READY}
. {KIT}/{_HEARS}
[ "${_READY}" = yes ] || exit 119
unset {_READY} SHLVL PWD OLDPWD
exec "$@"
"""


class Gate:
    """The host's side of a gate. `folder` is what the container is to see at `/.bottle`, read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, probes: str) -> None:
        """Have the next container run this shell text, which prints what it finds."""
        (self.folder / "gate").write_text(_SCRIPT.replace("@PROBES@", probes))
        (self.folder / "gate").chmod(0o644)

    def report(self, alive: Callable[[], bool]) -> bytes:
        """Wait for what the probes found, and give it. Raises WallsError if it does not come.

        `alive` says whether the container's client still runs.
        """
        pipe = os.open(self.folder / _SAYS, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _read(pipe, alive)
        finally:
            os.close(pipe)

    def let_through(self, variables: Mapping[str, str], alive: Callable[[], bool]) -> None:
        """Let the command start, with these variables besides those it has. Nothing, if it has gone."""
        plain = {name: value for name, value in variables.items() if is_for_shell(name)}
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in plain.items()]
        odd = [f"{name}={value}" for name, value in variables.items() if name not in plain]
        if odd:  # a shell cannot hold them
            lines.append(f'set -- {shlex.join([*BUSYBOX, "env", *odd])} "$@"\n')
        data = os.fsencode("".join([*lines, f"{_READY}=yes\n"]))
        pipe = self._open_to_say(alive)
        if pipe is not None:
            with suppress(BrokenPipeError), os.fdopen(pipe, "wb") as file:
                file.write(data)

    def _open_to_say(self, alive: Callable[[], bool]) -> int | None:
        while alive():
            try:
                pipe = os.open(self.folder / _HEARS, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody listens yet
                    raise
                time.sleep(0.005)
            else:
                os.set_blocking(pipe, True)
                return pipe
        return None


def is_for_shell(name: str) -> bool:
    """Whether the gate's shell can hold a variable of this name."""
    return bool(_SHELL_NAME.fullmatch(name))


@contextmanager
def gate(run: RunDir, progress: Progress) -> Iterator[Gate]:
    """Make a gate for the containers of a run, one after the other."""
    tools = kit(progress)
    folder = run.folder("gate")
    folder.chmod(0o755)  # of a folder that is the user's alone; whoever the command runs as has to enter
    for name in ("busybox", "ld.so"):
        link(tools / name, folder / name)
    for name in (_SAYS, _HEARS):
        os.mkfifo(folder / name)
        (folder / name).chmod(0o666)
    yield Gate(folder)


def _read(pipe: int, alive: Callable[[], bool]) -> bytes:
    """Read to the end of what the one writer says; less, when it has died."""
    deadline = time.monotonic() + _TIMEOUT
    data = b""
    while time.monotonic() < deadline and len(data) <= _LIMIT:
        ready, _, _ = select.select([pipe], [], [], 0.05)  # not before somebody has opened the other end
        chunk = os.read(pipe, _LIMIT) if ready else b""
        data += chunk
        if (ready and not chunk) or not (ready or alive()):
            return data
    if len(data) > _LIMIT:
        raise WallsError("the bottle's probes said more than they can")
    raise WallsError(
        f"the bottle's walls were not proved within {_TIMEOUT:g} s",
        why="its probes did not come to an end",
        next_step="try again when the machine is less busy",
    )


# read by the loader of every program, the gate's too
_LOADER = re.compile(r"LD_[A-Z0-9_]+")


@dataclass(frozen=True, slots=True)
class Image:
    """An image by its id, and the command and variables that it has of its own."""

    id: str
    command: tuple[str, ...]
    env: Mapping[str, str]


def is_for_loader(name: str) -> bool:
    """Whether every program's loader reads this variable: it must be empty while the gate runs."""
    return bool(_LOADER.fullmatch(name))


def held_up(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that do not come through the gate, to be given to the command once more.

    They are those for the loader, and those whose names a shell cannot hold.
    """
    return {name: value for name, value in env.items() if is_for_loader(name) or not is_for_shell(name)}


def look(engine: Engine, image: str, launch: BottleConfig) -> Image:
    """Ask the engine. Raises SpecError if there is nothing to run, ImageError for a broken configuration."""
    config = engine.inspect(image).get("Config") or {}
    try:
        own = (*_texts(config.get("Entrypoint")), *_texts(config.get("Cmd")))
        pairs = [item.partition("=")[::2] for item in _texts(config.get("Env"))]
    except (AttributeError, TypeError) as error:
        raise ImageError(f"{engine.name} tells nonsense of the image {image}") from error
    if not (launch.command or own):
        raise SpecError("the image names no command", next_step="give one: bottle run . -- COMMAND")
    return Image(image, own, dict(pairs))


def _texts(value: Any) -> list[str]:
    texts = value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError
    return texts

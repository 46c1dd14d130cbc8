"""The entrypoint of a container: a script of ours that runs the probes and waits to be released.

It runs in the place of the command, as the command's user, before it: runs the probes, reports their output,
and becomes the command when the host releases it. What only the command may have (secrets) comes with the
release, through a pipe, so that no engine ever sees it. Without the release, nothing starts.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.backend.base import BottleConfig
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import ImageError, SpecError, WallsError
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.probes import BUSYBOX, TOOLKIT
from bot_bottle.network.toolkit import prepare_toolkit
from bot_bottle.vm.package import link

ENTRYPOINT = (*BUSYBOX, "sh", f"{TOOLKIT}/entrypoint")

_SAYS, _HEARS = "says", "hears"
_LIMIT = 64 << 10  # bytes of its report that are read
_TIMEOUT = 60.0  # seconds; a busy machine takes long to start a container
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_READY = "bottle_gate_open"

# `hears` is sourced by the shell: so it gets variables without a program whose environment could be read
_SCRIPT = f"""\
( :
@PROBES@
) > {TOOLKIT}/{_SAYS} 2>/dev/null < /dev/null
unset {_READY}
. {TOOLKIT}/{_HEARS}
[ "${_READY}" = yes ] || exit 119
unset {_READY} SHLVL PWD OLDPWD
exec "$@"
"""


class Entrypoint:
    """The host's side of the entrypoint. `folder` is mounted read-only at `/.bottle` in the container."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, probes: str) -> None:
        """Set the shell script of the probes for the next container."""
        self._write(_SCRIPT.replace("@PROBES@", probes))

    def replace(self, command: Sequence[str]) -> None:
        """Set a command that the next start of a container runs instead of its own."""
        self._write(f"exec {shlex.join(command)}\n")

    def _write(self, script: str) -> None:
        (self.folder / "entrypoint").write_text(script)
        (self.folder / "entrypoint").chmod(0o644)

    def report(self, alive: Callable[[], bool]) -> bytes:
        """Wait for the output of the probes, and return it. Raises WallsError if it does not arrive.

        `alive` returns whether the container's client still runs.
        """
        pipe = os.open(self.folder / _SAYS, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _read(pipe, alive)
        finally:
            os.close(pipe)

    def release(self, variables: Mapping[str, str], alive: Callable[[], bool]) -> None:
        """Release the command, with additional variables. Does nothing if the container has exited."""
        plain = {name: value for name, value in variables.items() if is_shell_variable(name)}
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in plain.items()]
        odd = [f"{name}={value}" for name, value in variables.items() if name not in plain]
        if odd:  # a shell cannot have them
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
                if error.errno != errno.ENXIO:  # no reader yet
                    raise
                time.sleep(0.005)
            else:
                os.set_blocking(pipe, True)
                return pipe
        return None


def is_shell_variable(name: str) -> bool:
    """Return whether the entrypoint's shell can have a variable of this name."""
    return bool(_SHELL_NAME.fullmatch(name))


@contextmanager
def entrypoint(run: RunDir, progress: Progress) -> Iterator[Entrypoint]:
    """Yield the entrypoint of a run's containers, which run one after the other."""
    tools = prepare_toolkit(progress)
    folder = run.folder("entrypoint")
    folder.chmod(0o755)  # in a folder that only the user can enter; the command's user has to enter this one
    for name in ("busybox", "ld.so"):
        link(tools / name, folder / name)
    for name in (_SAYS, _HEARS):
        os.mkfifo(folder / name)
        (folder / name).chmod(0o666)
    yield Entrypoint(folder)


def _read(pipe: int, alive: Callable[[], bool]) -> bytes:
    """Read until the writer closes the pipe, or has died."""
    deadline = time.monotonic() + _TIMEOUT
    data = b""
    while time.monotonic() < deadline and len(data) <= _LIMIT:
        ready, _, _ = select.select([pipe], [], [], 0.05)  # not before a writer has opened the other end
        chunk = os.read(pipe, _LIMIT) if ready else b""
        data += chunk
        if (ready and not chunk) or not (ready or alive()):
            return data
    if len(data) > _LIMIT:
        raise WallsError("the network probes produced too much output")
    raise WallsError(
        f"the network isolation could not be checked within {_TIMEOUT:g} s",
        why="the probes did not finish",
        next_step="try again when the machine is less busy",
    )


# read by the loader of every program, also the entrypoint's
_LOADER = re.compile(r"LD_[A-Z0-9_]+")


class Image(Struct, frozen=True):
    """An image's id, and its own command and variables."""

    id: str
    command: tuple[str, ...]
    env: Mapping[str, str]


def is_loader_variable(name: str) -> bool:
    """Return whether every program's loader reads this variable: the entrypoint runs without it."""
    return bool(_LOADER.fullmatch(name))


def lost_in_shell(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the entrypoint cannot pass on, which are set again for the command.

    They are those of the loader, and those whose names a shell cannot have.
    """
    return {
        name: value for name, value in env.items() if is_loader_variable(name) or not is_shell_variable(name)
    }


def inspect_image(engine: Engine, image: str, launch: BottleConfig) -> Image:
    """Inspect the image. Raises SpecError if there is no command, ImageError for an invalid configuration."""
    config = engine.config(image)
    try:
        own = (*_texts(config.get("Entrypoint")), *_texts(config.get("Cmd")))
        pairs = [item.partition("=")[::2] for item in _texts(config.get("Env"))]
    except (AttributeError, TypeError) as error:
        raise ImageError(f"{engine.name} returned an invalid description of image {image}") from error
    if not (launch.command or own):
        raise SpecError("the image has no default command", next_step="give one: bottle run . -- COMMAND")
    return Image(image, own, dict(pairs))


def _texts(value: Any) -> list[str]:
    texts = value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError
    return texts

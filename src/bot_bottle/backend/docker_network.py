"""The network of a container: none at all, or none but a door that a proxy answers; open, if that was said.

Where something may be reached, a second container holds a network without any device but loopback, in which
this machine's own Python makes the socket that the proxy answers (see `egress.door`). The bottle's container
joins it. Other tools take an internal network here, which has the host's bridge as a neighbour.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bot_bottle import process
from bot_bottle.backend.base import Launch
from bot_bottle.backend.docker_argv import bind_option
from bot_bottle.backend.helper import helper_image
from bot_bottle.egress.door import MAKER, Door, Record, door
from bot_bottle.egress.withheld import Withheld
from bot_bottle.errors import EngineError, WallsError
from bot_bottle.image.engine import Engine
from bot_bottle.process import Child
from bot_bottle.rundir import RunDir

_TIMEOUT = 120.0  # seconds
_PLACE = Path("/door")

# where a Python, its libraries and its loader are; what of it there is
_SYSTEM = ("/usr", "/lib", "/lib64", "/nix/store")


@dataclass(frozen=True, slots=True)
class Network:
    """What `--network` is given.

    With a `log` of what is refused it is shared with the container that holds it, and so is the hostname.
    """

    mode: str
    log: Path | None = None

    @property
    def shared(self) -> bool:
        """Whether another container holds it."""
        return self.log is not None

    def forget(self) -> None:
        """Begin the log anew."""
        if self.log is not None and self.log.exists():
            os.truncate(self.log, 0)


@contextmanager
def network(
    launch: Launch,
    engine: Engine,
    labels: Mapping[str, str],
    record: Record,
    run: RunDir,
    withheld: Sequence[Withheld],
    bundle: Path,
) -> Iterator[Network]:
    """Give a bottle's network for as long as the block lasts. `bundle` is for `egress.withheld`.

    The container that holds it has the labels, and is removed with the bottle's own by them.
    """
    if launch.egress.closed:
        yield Network("none")
    elif launch.egress.open:
        yield Network("bridge" if engine.name == "docker" else "private")
    else:
        with door(launch.egress, record, run, withheld, bundle) as made:
            argv = _argv(engine, launch, labels, helper_image(engine, run), made)
            words = run.path / "network.log"
            with words.open("wb") as output, process.background(argv, output=output) as holder:
                _wait(engine, made, holder, words)
                yield Network(f"container:{_id(engine, launch)}", record.log)


def _argv(engine: Engine, launch: Launch, labels: Mapping[str, str], image: str, made: Door) -> list[str]:
    argv = [str(engine.program), "run", "--rm", f"--name={_name(launch)}", f"--hostname={launch.slug}"]
    argv += [f"--label={key}={value}" for key, value in labels.items()]
    argv += ["--pull=never", "--network=none", "--log-driver=none", "--read-only", "--init", "--user=0"]
    argv += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=32", "--memory=256m"]
    argv += [bind_option(Path(folder), folder, "readonly") for folder in _folders()]
    argv += [bind_option(made.folder, str(_PLACE), "readonly")]
    python = os.path.realpath(sys.executable)
    return [*argv, image, python, "-I", "-S", "-B", "-c", MAKER, str(_PLACE / made.socket.name)]


def _folders() -> Sequence[str]:
    own = os.path.realpath(sys.base_prefix)
    inside = own == "/usr" or own.startswith(("/usr/", "/nix/store/"))
    return [*filter(os.path.isdir, _SYSTEM), *([] if inside else [own])]


def _name(launch: Launch) -> str:
    return f"{launch.name}-network"


def _wait(engine: Engine, made: Door, holder: Child, words: Path) -> None:
    """Wait until the proxy has its socket: then it has taken the path away on which it waited for it."""
    deadline = time.monotonic() + _TIMEOUT
    while made.socket.exists():
        if holder.code is not None or time.monotonic() > deadline:
            raise EngineError(
                f"{engine.name} could not make the bottle's network",
                why=words.read_text("utf-8", "replace")[-2000:],
            )
        if made.process.code is not None:
            raise WallsError("the bottle's proxy has ended", why=made.complaint())
        time.sleep(0.01)


def _id(engine: Engine, launch: Launch) -> str:
    argv = [str(engine.program), "container", "inspect", "--format={{.Id}}", _name(launch)]
    return process.run(argv, timeout=_TIMEOUT).text

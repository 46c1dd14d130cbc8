"""Names of images taken away again, and never an image with its last name.

docker removes an image with its last name. So the name is first given to an empty image, made of a tar on
standard input, and goes with that.

With overlay2, docker also notes the digest by which an image was pushed as a name of its own, which keeps the
image from being removed. It goes with the tag that was pushed, but only where the image has another name. So
an image gets a second one for as long as it is pushed.

docker 25 to 27 with containerd's image store removes an image with its last name even where that name is
given to another image. So an image without a name is not pushed from there.

Source: moby, daemon/images/image_delete.go (ImageDelete).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot_bottle.engine import commands as argv
from bot_bottle.engine import containers
from bot_bottle.engine import errors as words
from bot_bottle.engine.commands import EngineName
from bot_bottle.engine.engine_details import is_containerd_store, part
from bot_bottle.engine.errors import NoSuchImageError
from bot_bottle.errors import EngineError
from bot_bottle.host import process
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals

if TYPE_CHECKING:  # which uses this module
    from bot_bottle.engine.engine import Engine

STRAY = "image-name"

_EMPTY_TAR = bytes(1024)
_TIMEOUT = 60.0  # seconds

Run = Callable[[tuple[str, ...], bytes], process.Completed]
"""Runs a command of the engine with its standard input. Raises NoSuchImageError, EngineError."""


class ImageNames:
    """Takes names from images of an engine, by commands that `run` runs."""

    def __init__(self, program: Path, name: EngineName, run: Run) -> None:
        self._program = program
        self._name = name
        self._run = run

    def untag(self, ref: str) -> None:
        """Take a name from its image and leave the image; no matter if there is none. Raises EngineError."""
        with suppress(NoSuchImageError):
            if self._name == "podman":
                self._run(argv.untag_argv(self._program, ref), b"")
            else:
                self._untag(ref, self._inspect(ref))

    def untag_pushed(self, pushed: str, second: str) -> None:
        """Take the name that an image was pushed by, with its digest, and its second name, if it has them.

        Raises EngineError.
        """
        if self._name == "podman":
            self.untag(pushed)
            return
        with suppress(NoSuchImageError):
            image = self._inspect(pushed)
            with suppress(NoSuchImageError):
                if self._inspect(second).get("Id") == image.get("Id"):
                    self._run(argv.remove_name_argv(self._program, pushed), b"")
            self.untag(pushed)
        self.untag(second)

    def _untag(self, ref: str, image: Mapping[str, Any]) -> None:
        # one that was killed in the middle has left the empty image
        if argv.EMPTY_LABEL not in part(part(image, "Config"), "Labels"):
            self._run(argv.import_empty_argv(self._program, ref), _EMPTY_TAR)
        self._run(argv.remove_name_argv(self._program, ref), b"")

    def _inspect(self, ref: str) -> dict[str, Any]:
        [image] = json.loads(self._run(argv.inspect_argv(self._program, ref), b"").stdout)
        return dict(image)


@contextmanager
def named_for_push(engine: Engine, image: str, pushed: str, second: str, run: RunDir) -> Iterator[None]:
    """Name an image in the block, to be pushed as `pushed`; `second` is another name of it meanwhile.

    What a killed command leaves of it is recorded in `run`, for `sweep`. Raises EngineError.
    """
    _check_that_it_stays(engine, image)
    facts = {"program": str(engine.program), "engine": engine.name, "pushed": pushed, "second": second}
    run.record(STRAY, **facts, variables=containers.engine_variables())
    try:
        if engine.name != "podman":
            engine.tag(image, second)
        engine.tag(image, pushed)
        yield
    finally:
        with defer_signals():
            engine.names.untag_pushed(pushed, second)


def _check_that_it_stays(engine: Engine, image: str) -> None:
    major = engine.server_version.partition(".")[0]
    if engine.name == "podman" or major not in ("25", "26", "27") or not is_containerd_store(engine.info()):
        return
    if not engine.inspect(image).get("RepoTags"):
        raise EngineError(
            f"docker {engine.server_version} would lose the image {image} with a push",
            why="with containerd's image store it removes an image with the last name of it",
            next_step=f"give it a name: docker tag {image} NAME, or choose another --transport",
        )


def sweep(stray: Mapping[str, Any]) -> None:
    """Take the names away that a killed command gave to an image that it pushed. Raises EngineError."""
    env = containers.engine_environment(stray["variables"])
    name: EngineName = "podman" if stray["engine"] == "podman" else "docker"

    def run(command: tuple[str, ...], input: bytes) -> process.Completed:
        try:
            return process.run(command, timeout=_TIMEOUT, env=env, input=input)
        except process.CommandFailed as error:
            raise words.refused(name, "untag", stray["pushed"], error.done.complaint) from error

    ImageNames(Path(stray["program"]), name, run).untag_pushed(stray["pushed"], stray["second"])

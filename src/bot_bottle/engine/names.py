"""Names of images taken away again, and never an image with its last name.

docker removes an image with its last name. So the name is first given to an empty image, made of a tar on
standard input, and goes with that.

With overlay2, docker also notes the digest by which an image was pushed as a name of its own, which keeps the
image from being removed. It goes with the tag that was pushed, but only where the image has another name. So
an image gets a second one for as long as it is pushed.

Source: moby, daemon/images/image_delete.go (ImageDelete).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bot_bottle.engine import commands as argv
from bot_bottle.engine.commands import EngineName
from bot_bottle.engine.containers import engine_environment
from bot_bottle.engine.errors import NoSuchImageError, refused
from bot_bottle.engine.info import part
from bot_bottle.host import process

_EMPTY_TAR = bytes(1024)
_TIMEOUT = 60.0  # seconds for each command of a sweep

Run = Callable[[tuple[str, ...], bytes], process.Completed]
"""Runs a command of the engine with its standard input. Raises NoSuchImageError, EngineError."""


class ImageNames:
    """Removes names of images of an engine, by commands that `run` runs."""

    def __init__(self, program: Path, name: EngineName, run: Run) -> None:
        self._program = program
        self._name = name
        self._run = run

    @classmethod
    def from_record(cls, stray: Mapping[str, Any], ref: str) -> ImageNames:
        """Return the names of the engine of a killed command. Errors are about the name `ref`."""
        env = engine_environment(stray["variables"])
        name: EngineName = "podman" if stray["engine"] == "podman" else "docker"

        def run(command: tuple[str, ...], input: bytes) -> process.Completed:
            try:
                return process.run(command, timeout=_TIMEOUT, env=env, input=input)
            except process.CommandFailed as error:
                raise refused(name, "untag", ref, error.done.complaint) from error

        return cls(Path(stray["program"]), name, run)

    def untag(self, ref: str) -> None:
        """Remove a name, but not its image; does nothing if there is no such name. Raises EngineError."""
        with suppress(NoSuchImageError):
            if self._name == "podman":
                self._run(argv.untag_argv(self._program, ref), b"")
            else:
                self._untag(ref, self._inspect(ref))

    def untag_pushed(self, pushed: str, second: str, *, named: bool = False) -> None:
        """Remove the name by which an image was pushed, with its digest, and its second name, if it has them.

        With `named` the caller has just given it both: nothing is asked first. Raises EngineError.
        """
        if self._name == "podman":
            self.untag(pushed)
            return
        if named:
            with suppress(NoSuchImageError):
                self._run(argv.remove_name_argv(self._program, pushed), b"")
            self._untag(second, {})
            return
        with suppress(NoSuchImageError):
            image = self._inspect(pushed)
            with suppress(NoSuchImageError):
                if self._inspect(second).get("Id") == image.get("Id"):
                    self._run(argv.remove_name_argv(self._program, pushed), b"")
            self.untag(pushed)
        self.untag(second)

    def _untag(self, ref: str, image: Mapping[str, Any]) -> None:
        # a killed command may have left the empty image
        if argv.EMPTY_LABEL not in part(part(image, "Config"), "Labels"):
            self._run(argv.import_empty_argv(self._program, ref), _EMPTY_TAR)
        self._run(argv.remove_name_argv(self._program, ref), b"")

    def _inspect(self, ref: str) -> dict[str, Any]:
        [image] = json.loads(self._run(argv.inspect_argv(self._program, ref), b"").stdout)
        return dict(image)

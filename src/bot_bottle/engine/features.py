"""Features of a devcontainer.json, installed by the reference CLI with the engine's own client."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bot_bottle.engine.build_names import named_for_build, new_name, own_name
from bot_bottle.engine.engine import Engine
from bot_bottle.engine.errors import clean_line
from bot_bottle.engine.identity import EngineImage
from bot_bottle.engine.info import part
from bot_bottle.engine.push_names import loses_unnamed
from bot_bottle.errors import BuildError
from bot_bottle.host import process
from bot_bottle.host.redact import redacted
from bot_bottle.host.rundir import RunDir
from bot_bottle.workspace.features import (
    LABEL,
    PROGRAM,
    Features,
    find_program,
    write_project,
)

_WHY_LINES = 20
_TIME = re.compile(r"\[\d{4}-\d\d-\d\dT[\d:.]+Z\] ?")
_NOISE = re.compile(
    r"\s*$|\s+at .*:\d+\)?$|=+$|Exit code \d|\{\"outcome\"|\s*---> |Removing intermediate|Step \d+/"
)


def install_features(
    engine: Engine,
    image: EngineImage,
    features: Features,
    run: RunDir,
    say: Callable[[str], None],
    *,
    no_cache: bool = False,
) -> EngineImage:
    """Return the image with features installed on top of it. Raises BuildError with the CLI's own words."""
    program = find_program(features.file)
    folder = Path(tempfile.mkdtemp(prefix="features-", dir=run.path))
    (folder / "tmp").mkdir()
    with ExitStack() as stack:
        base, chosen = stack.enter_context(named_for_build(engine, image.id, run))
        config, _ = write_project(features, base, folder / "project")
        if loses_unnamed(engine):
            result = new_name("features")  # it stays for as long as the image
        else:
            result = stack.enter_context(own_name(engine, "features", run))
        argv = [
            str(program), "build", "--workspace-folder", str(folder / "project"), "--config", str(config),
            "--image-name", result,
            "--docker-path", str(engine.program), "--user-data-folder", str(folder / "data"),
            *(["--no-cache"] if no_cache else []),
        ]  # fmt: skip
        env = {**os.environ, **chosen, "TMPDIR": str(folder / "tmp")}
        done = process.follow(argv, lambda line: say(redacted(_plain(line))), env=env)
        if done.code:
            raise BuildError(
                f"the features of {features.file} could not be installed",
                why=_words(done.complaint) or done.complaint,
                next_step=f"correct them; `{PROGRAM} build` shows all of its output",
            )
        return engine.image(result)


def label(engine: Engine, image: str) -> str:
    """Return what an image says of the features that are in it."""
    labels = part(engine.config(image), "Labels")
    found = labels.get(LABEL)
    return found if isinstance(found, str) else ""


def _plain(line: str) -> str:
    return _TIME.sub("", clean_line(line))


def _words(output: str) -> str:
    """Return the end of what the CLI said, without its own noise."""
    lines = [_plain(line) for line in output.splitlines()]
    return "\n".join([line for line in lines if not _NOISE.match(line)][-_WHY_LINES:])

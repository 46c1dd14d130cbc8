"""A microVM to put several commands into, and `bottle` as a process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.backend_suite import Attach, Ended
from tests.support.engines import Docker
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context

from bot_bottle.backend.base import RunningBottle
from bot_bottle.backend.direct.bottle import DirectBottle
from bot_bottle.bottle import run as pipeline
from bot_bottle.bottle.gc import run_context
from bot_bottle.bottle.spec import BottleSpec, make_slug
from bot_bottle.engine.source import Source
from bot_bottle.host.progress import Progress
from bot_bottle.pack.converter import Converter

COMMAND = [str(Path(sys.executable).with_name("bottle"))]


@pytest.fixture(scope="module")
def image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with all that the tests of this tier look for."""
    context = busybox_context(tmp_path_factory.mktemp("image"), BOTTLE_DOCKERFILE)
    return docker.build(context, "--tag", "bot-bottle-test-vm")


@pytest.fixture(scope="module")
def attach(running: DirectBottle) -> Attach:
    """Run commands, one after the other, attached to one microVM of the image."""

    def attached(*command: str, stdin: bytes = b"", **changes: object) -> Ended:
        launch = replace(running.launch, **({"command": command} if command else {}), **changes)  # type: ignore[arg-type]
        bottle = DirectBottle(launch, running._image, running._machine, running._proof)
        return run_attached(bottle, stdin)

    return attached


@pytest.fixture(scope="module")
def running(image: str, shared_cache: Path) -> Iterator[DirectBottle]:
    """One microVM of the image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOT_BOTTLE_CACHE_DIR", str(shared_cache))
        source = Source(image=image)
        progress = Progress("plain")
        with run_context() as run:
            converter = Converter(run, progress)
            spec = BottleSpec(source, make_slug(source), memory_mib=1024, accel="direct")
            plan = pipeline.prepare(spec, converter)
            with pipeline.launch(plan, converter, run, progress) as bottle:
                assert isinstance(bottle, DirectBottle)
                yield bottle


def run_attached(bottle: RunningBottle, stdin: bytes = b"") -> Ended:
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        with _descriptors(given.fileno(), out.fileno(), err.fileno()):
            code = bottle.run(tty=False)
        out.seek(0)
        err.seek(0)
        return Ended(code, out.read(), err.read())


@contextmanager
def _descriptors(*targets: int) -> Iterator[None]:
    """Put other files behind our own three streams."""
    saved = [os.dup(number) for number in range(3)]
    for number, target in enumerate(targets):
        os.dup2(target, number)
    try:
        yield
    finally:
        for number, kept in enumerate(saved):
            os.dup2(kept, number)
            os.close(kept)

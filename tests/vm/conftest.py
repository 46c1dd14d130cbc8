"""A microVM to put several commands into, and `bottle` as a process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.support.engines import Docker
from tests.support.images import busybox_context

from bot_bottle import bottle as pipeline
from bot_bottle.backend.smolmachines import Bottle
from bot_bottle.conversion import Converter
from bot_bottle.progress import Progress
from bot_bottle.spec import BottleSpec, Source, make_slug

COMMAND = [str(Path(sys.executable).with_name("bottle"))]

# what the images of this tier are made of: every way for a layer to change what is below it
DOCKERFILE = """\
FROM scratch AS base
COPY rootfs /
ENV PATH=/usr/bin:/bin
RUN mkdir -p /t/gone /t/opaque /t/becomes-file /home/agent \\
    && echo a > /t/gone/file && echo b > /t/opaque/below && chmod 700 /t/opaque \\
    && echo d > /t/becomes-folder \\
    && echo c > /t/original && ln /t/original /t/second && ln -s original /t/relative \\
    && ln -s /etc/passwd /t/absolute && ln -s / /t/to-root && ln -s ../../../../etc/passwd /t/over \\
    && chown 1000:1000 /home/agent
RUN rm -r /t/gone /t/becomes-file /t/becomes-folder /t/opaque \\
    && echo file > /t/becomes-file && mkdir /t/becomes-folder && echo e > /t/becomes-folder/inside \\
    && mkdir /t/opaque && echo new > /t/opaque/above && ln /t/original /t/third
RUN touch /t/setuid /t/setgid && chown 1000:54321 /t/setuid && chmod 4755 /t/setuid && chmod 2755 /t/setgid \\
    && mkdir /t/sticky && chmod 1777 /t/sticky && head -c 3000000 /dev/zero > /t/zeros \\
    && printf x > "$(printf '/t/new\\nline')" && printf y > "$(printf '/t/raw\\377name')" \\
    && touch /t/large-owner && chown 2147483648:2147483648 /t/large-owner
ENV GREETING="two words" QUOTE='it"s' EMPTY=
WORKDIR /home/agent
USER agent
ENTRYPOINT ["sh", "-c", "echo ran >> /tmp/runs; cat /tmp/runs; echo \\"$0 $1\\""]
CMD ["from", "cmd"]
"""


@dataclass(frozen=True)
class Ended:
    """How an attached command ended."""

    code: int
    out: bytes
    err: bytes


Attach = Callable[..., Ended]


@pytest.fixture(scope="module")
def image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with all that the tests of this tier look for."""
    context = busybox_context(tmp_path_factory.mktemp("image"), DOCKERFILE)
    return docker.build(context, "--tag", "bot-bottle-test-vm")


@pytest.fixture(scope="module")
def attach(image: str, shared_cache: Path) -> Iterator[Attach]:
    """Run commands, one after the other, attached to one microVM of the image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOT_BOTTLE_CACHE_DIR", str(shared_cache))
        source = Source(image=image)
        progress = Progress("plain")
        with pipeline.workspace() as run:
            plan = pipeline.prepare(
                BottleSpec(source, make_slug(source), memory_mib=1024), Converter(run, progress)
            )
            with pipeline.launch(plan, run, progress) as bottle:

                def attached(*command: str, stdin: bytes = b"", **changes: object) -> Ended:
                    launch = replace(bottle.launch, **({"command": command} if command else {}), **changes)  # type: ignore[arg-type]
                    return _attached(Bottle(launch, bottle._host, progress), stdin)

                yield attached


def _attached(bottle: Bottle, stdin: bytes) -> Ended:
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

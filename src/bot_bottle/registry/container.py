"""The registry as a container: the reference implementation, for users who prefer it to the embedded one.

It has no password: other users of the host can list its content and write to it while it runs. References are
by digest, so nobody can change what they refer to.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bot_bottle.engine.containers import Containers
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.errors import EngineError, RegistryError
from bot_bottle.host import process
from bot_bottle.host.process import Child
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.text import printable
from bot_bottle.registry.client import Client
from bot_bottle.registry.registry import Registry

_PINNED = "sha256:a3d8aaa63ed8681a604f1dea0aa03f100d5895b6a58ace528858a7b332415373"  # registry:2.8.3
IMAGE = f"docker.io/library/registry@{_PINNED}"
IMAGE_VARIABLE = "BOT_BOTTLE_REGISTRY_IMAGE"
LABEL = "bot-bottle.registry"
STRAY = "registry-container"

_READY_SECONDS = 10.0
_LOG_BYTES = 4000
_PORT_LINE = re.compile(r"(?:.*->\s*)?(\S+):(\d{1,5})\s*\Z")


@contextmanager
def container(run: RunDir, engine: Engine | None = None, *, push: bool = False) -> Iterator[Registry]:
    """Run the registry image until the block ends. Raises RegistryError, EngineError."""
    engine = engine or find_engine()
    image = os.environ.get(IMAGE_VARIABLE) or IMAGE
    _have(engine, image)
    name = f"bot-bottle-registry-{secrets.token_hex(8)}"
    label = f"{LABEL}={name}"
    containers = engine.containers
    with ExitStack() as stack:
        with defer_signals():
            folder = Path(tempfile.mkdtemp(prefix="registry-", dir=run.path))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            containers.record(run, STRAY, label)
            log = stack.enter_context((folder / "log").open("wb"))
            # again, for a container that the engine was still creating when its client exited
            stack.callback(containers.remove, label)
            child = stack.enter_context(containers.run_in_background(image, (), _options(name), log))
            stack.callback(containers.remove, label)
        port = _await(containers, name, child, folder / "log")
        held = stack.enter_context(ExitStack())
        yield Registry(port, secrets.token_hex(16), folder, run, held, push=push)


def _options(name: str) -> tuple[str, ...]:
    return (
        f"--name={name}",
        f"--label={LABEL}={name}",
        "--publish=127.0.0.1::5000",
        "--env=REGISTRY_STORAGE_DELETE_ENABLED=true",
    )


def parse_port(text: str) -> int | None:
    """Parse the output of `docker port`; None when there is no port yet. Raises EngineError.

    There may be a line for each address family, and each may begin with the container's port. Only a port on
    127.0.0.1 is accepted: another would expose the registry to the network.
    """
    found = [match for line in text.splitlines() if (match := _PORT_LINE.match(line.strip()))]
    for match in found:
        if match[1] == "127.0.0.1" and 0 < int(match[2]) < 65536:
            return int(match[2])
    if any(match[1] in ("0.0.0.0", "[::]", "::") for match in found):  # noqa: S104 - refused, not bound
        raise EngineError("the engine published the registry beyond loopback", why=text)
    return None


def _have(engine: Engine, image: str) -> None:
    if engine.exists(image):
        return
    try:
        engine.pull(image, lambda _line: None)
    except EngineError as error:
        raise RegistryError(
            f"the registry image cannot be pulled: {image}",
            why=error.why,
            next_step=f"set {IMAGE_VARIABLE} to an image of {engine.name}, or use the embedded form",
        ) from error


def _await(containers: Containers, name: str, child: Child, log: Path) -> int:
    """Wait until the registry answers; return its port."""
    deadline = time.monotonic() + _READY_SECONDS
    problem, failure = f"was not ready within {_READY_SECONDS:g} s", "it has no port yet"
    while (left := deadline - time.monotonic()) > 0:
        if child.code is not None:
            problem, failure = "exited before it was ready", f"exit status {child.code}"
            break
        try:
            port = parse_port(containers.port(name, "5000/tcp", timeout=max(1.0, left)))
            if port is not None:
                Client(port, timeout=min(2.0, left)).ping()
                return port
        except (RegistryError, process.CommandFailed) as error:
            failure = f"{error.message}: {error.why}"
        time.sleep(0.05)
    raise RegistryError(
        f"the registry container {problem}",
        why=f"{failure}\n{_tail(log)}",
        next_step="use the embedded form, which needs no container",
    )


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return "\n".join(printable(line, keep="\t") for line in lines[-15:])

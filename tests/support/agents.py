"""Agents at work in a world: a repository whose test fails, and what has to come back."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.bottle import Bottle, Ended
from tests.support.engines import CHECKOUT, LABEL, OWNER, Docker
from tests.support.images import busybox_context
from tests.support.model_server import LAST, broken_repository
from tests.support.repos import Repo, make_repo
from tests.support.world import World

KEY = f"sk-ant-canary-{secrets.token_hex(16)}"


def base_image(docker: Docker) -> str:
    """Have an image with what agents call, and return its name. The first time takes minutes."""
    subprocess.run([CHECKOUT / "examples/agent/prepare", "base"], env=docker.env, check=True, timeout=1500)
    return "bot-bottle-base:bookworm"


@contextmanager
def debian_image(docker: Docker, name: str) -> Iterator[None]:
    """Have the image of Debian that a Dockerfile names, until the block ends. The first time takes minutes.

    Where the engine has none, it is made here, so that no registry is asked.
    """
    if name in docker.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").decode().split():
        yield
        return
    subprocess.run([CHECKOUT / "examples/agent/prepare", "slim"], check=True, timeout=1500)
    tar = CHECKOUT / ".cache/agent/slim.tar"
    label = f"LABEL {LABEL}={OWNER}"
    docker.docker("import", "--change", label, "--change", 'CMD ["bash"]', str(tar), name)
    try:
        yield
    finally:
        docker.docker("image", "rm", name)


def musl_image(docker: Docker, folder: Path) -> str:
    """Make an image of musl, busybox and bash, and return its id."""
    context = busybox_context(folder)
    subprocess.run(["apt-get", "download", "musl", "bash-static"], cwd=folder, check=True, timeout=300)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "unpacked"], check=True, timeout=60)
    root = context / "rootfs"
    shutil.copytree(folder / "unpacked/lib", root / "lib", symlinks=True)
    shutil.copy(folder / "unpacked/bin/bash-static", root / "bin/bash")
    return docker.build(context)


def repository(folder: Path, base: str) -> Repo:
    """Make a repository whose test fails, with a Dockerfile that knows nothing of agents."""
    made = make_repo(folder)
    broken_repository(made.top, f"FROM {base}\nWORKDIR /workspace\n")
    made.commit(message="one")
    return made


def in_world(bottle: Bottle, outside: World, **variables: str | None) -> Bottle:
    """Run `bottle` in a world whose authority it trusts."""
    trusted = {"SSL_CERT_FILE": str(outside.folder / "cert.pem"), "SSL_CERT_DIR": None}
    return replace(bottle, prefix=outside.prefix, changes={**bottle.changes, **trusted, **variables})


def hold_work_came_back(bottle: Bottle, there: Repo, name: str, done: Ended) -> None:
    """Hold that the agent has repaired the test, and that its commit can be taken over."""
    assert done.code == 0, done
    assert LAST in done.out, done
    shown = json.loads(bottle("show", "--json", name).out)
    assert shown["git"]["commits"] == 1, done
    applied = bottle("apply", name, cwd=there.top)
    assert applied.code == 0, applied
    assert "a + b" in (there.top / "calc.py").read_text()


def sent(outside: World, header: str) -> set[str | None]:
    """The values of a header that the vendors' servers have got."""
    found: list[dict[str, Any]] = [each["headers"] for each in outside.seen() if "method" in each]
    lowered = [{name.lower(): value for name, value in headers.items()} for headers in found]
    return {headers.get(header) for headers in lowered}


def bodies(outside: World) -> list[str]:
    """What the models have been asked: the bodies of all requests."""
    return [each["asked"] for each in outside.seen() if each.get("asked")]

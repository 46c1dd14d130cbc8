"""Every engine there is to try: each docker client on PATH with each of its builders, and podman."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot_bottle.engine.engine import BuildRequest, Engine, find_engine
from tests.support.engines import LABEL, OWNER
from tests.support.images import busybox_rootfs

PODMAN = "podman"
BASE = f"FROM scratch AS base\nLABEL {LABEL}={OWNER}\nCOPY rootfs /\n"


@dataclass(frozen=True)
class Case:
    """An engine to try. `wish` is DOCKER_BUILDKIT, "" for our own choice of a builder."""

    program: str
    wish: str = ""

    def __str__(self) -> str:
        return "-".join(part for part in (self.program, self.wish) if part)


def docker_clients() -> list[Path]:
    """Give the docker clients of this machine: there may be one of the system and a newer one."""
    found = [Path(folder) / "docker" for folder in os.environ["PATH"].split(os.pathsep)]
    return list({path.resolve(): path for path in reversed(found) if os.access(path, os.X_OK)}.values())


CASES = [
    *(Case(str(client)) for client in docker_clients()),
    *(Case(str(client), "0") for client in docker_clients()[:1]),  # the classic builder of the system's
    Case(PODMAN),
]


def use(
    case: Case, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Engine:
    """Make the engine of a case the one that is found, and find it as a user's is found."""
    monkeypatch.delenv("BOT_BOTTLE_ENGINE", raising=False)
    if case.program == PODMAN:
        for name, value in request.getfixturevalue("podman").variables.items():
            monkeypatch.setenv(name, value)
        return find_engine(PODMAN)
    request.getfixturevalue("docker")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").symlink_to(case.program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("DOCKER_BUILDKIT", case.wish)
    found = find_engine("docker")
    assert found.program == tmp_path / "bin" / "docker"
    assert not (case.wish and found.buildkit)
    return found


def fresh_context(folder: Path) -> Path:
    """Make a build context with a root filesystem to start FROM scratch with. No build of it is cached."""
    root = busybox_rootfs(folder / "rootfs")
    (root / "etc" / "hostname").write_text(f"{OWNER}{folder}\n")
    return folder


def dockerfile(context: Path, rest: str) -> BuildRequest:
    """Ask for a build of these lines on top of the context's root filesystem."""
    (context / "Dockerfile").write_text(BASE + rest)
    return BuildRequest(context)

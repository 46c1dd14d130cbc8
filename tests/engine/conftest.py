"""A bottle command with a real engine, and images and archives to give it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from bot_bottle.engine.engine import Engine
from tests.support.bottle import Bottle
from tests.support.cache import share
from tests.support.clients import crane_program
from tests.support.engine_matrix import PODMAN, Case, unit, use
from tests.support.engines import LABEL, OWNER, Docker, Podman
from tests.support.images import docker_registry_context
from tests.support.layouts import config_digest


class ByEngine(LoadScopeScheduling):  # type: ignore[misc]
    """Runs all tests of an engine, or of a file, in one process, so that what they share is made once."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByEngine | None:
    """Schedule by engine. The groups of `--dist loadgroup` itself do not work with pytest 9.2."""
    return ByEngine(config, log) if config.getvalue("dist") == "loadgroup" else None


class Context(Protocol):
    """Makes a build context from a Dockerfile's lines and the files that it copies."""

    def __call__(self, *lines: str, **files: bytes) -> Path: ...


@pytest.fixture(scope="session")
def engine_copy() -> str:
    """A copy of each docker engine for each process after the first: tests look at all images there are."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return "" if worker == "gw0" else worker


@pytest.fixture(autouse=True)
def cache_dir(cache_dir: Path) -> Path:
    """The same, with the programs of the probes, which would be unpacked for each test anew."""
    share(cache_dir, "smolvm")
    return cache_dir


@pytest.fixture
def bottle(cache_dir: Path, docker: Docker) -> Iterator[Bottle]:
    """Run `bottle` with the docker of the tests."""
    bottle = Bottle(cache_dir, docker.variables)
    yield bottle
    bottle.kill_started()


@pytest.fixture
def podman_bottle(cache_dir: Path, podman: Podman) -> Iterator[Bottle]:
    """Run `bottle` with the podman of the tests. No docker answers."""
    silent = {"DOCKER_HOST": f"unix://{cache_dir}/nothing.sock", "BOT_BOTTLE_ENGINE": "podman"}
    bottle = Bottle(cache_dir, {**podman.variables, **silent})
    yield bottle
    bottle.kill_started()


@pytest.fixture
def engine(
    engine_case: Case, docker: Docker, podman: Podman, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Engine:
    """Each engine in turn, with each of its clients and builders, as bottle finds it."""
    return use(engine_case, podman.variables, monkeypatch, tmp_path)


@pytest.fixture
def containers(
    engine_case: Case, docker: Docker, podman: Podman, monkeypatch: pytest.MonkeyPatch
) -> Docker | Podman:
    """Each engine in turn, as what bottles run on; it is the one that bottle finds."""
    chosen: Docker | Podman = podman if engine_case.kind == PODMAN else docker
    for name, value in chosen.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BOT_BOTTLE_ENGINE", engine_case.kind)
    if chosen is podman:
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")  # no docker answers
    return chosen


@pytest.fixture
def containers_bottle(cache_dir: Path, containers: Docker | Podman, engine_case: Case) -> Bottle:
    """Run `bottle` on that engine."""
    return Bottle(cache_dir, {**containers.variables, "BOT_BOTTLE_ENGINE": engine_case.kind})


@pytest.fixture
def context(base_image: str, tmp_path: Path) -> Context:
    """Make build contexts on top of the base image."""
    made: list[Path] = []

    def make(*lines: str, **files: bytes) -> Path:
        folder = tmp_path / f"context-{len(made)}"
        folder.mkdir()
        made.append(folder)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        text = [f"FROM {base_image}", f"LABEL {LABEL}={OWNER}", *lines]
        (folder / "Dockerfile").write_text("\n".join(text) + "\n")
        return folder

    return make


@pytest.fixture(scope="session")
def image(docker: Docker, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of several layers, of which one takes away what another brought."""
    folder = tmp_path_factory.mktemp("image")
    lines = (f"FROM {base_image}", "RUN echo one > /one && echo two > /two", "RUN rm /two", "WORKDIR /srv")
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    # with a name of its own, it stays when a test takes another name from it
    return docker.build(folder, "--tag", f"bot-bottle-test-image:{OWNER}")


@pytest.fixture(scope="session")
def saved(docker: Docker, image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as docker saves it."""
    path = tmp_path_factory.mktemp("saved") / "image.tar"
    docker.docker("save", "--output", str(path), image)
    return path


@pytest.fixture(scope="session")
def image_config(saved: Path) -> str:
    """The digest of the image's config, by which it is known to be the same wherever it is."""
    return config_digest(saved)


@pytest.fixture(scope="session")
def crane(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program crane."""
    return crane_program(tmp_path_factory.mktemp("crane"))


@pytest.fixture
def registry_image(docker_registry_image: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The image that the container form of the registry runs in this test."""
    monkeypatch.setenv("BOT_BOTTLE_REGISTRY_IMAGE", docker_registry_image)
    return docker_registry_image


@pytest.fixture(scope="session")
def docker_registry_image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of Debian's docker-registry, made as the registry's own image is."""
    return docker.build(docker_registry_context(tmp_path_factory.mktemp("registry-image")))

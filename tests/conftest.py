"""Fixtures of every tier. No test touches the user's own cache; a tier that cannot run fails, never skips."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import settings

from bot_bottle.host.signals import SIGNALS
from tests.support import agents, engine_matrix
from tests.support.cache import FOLDER, share
from tests.support.callers import git_context
from tests.support.canary import Canary
from tests.support.engines import OWNER, Docker, Podman, private_docker, private_podman
from tests.support.images import busybox_context
from tests.support.world import World, world

settings.register_profile("many", max_examples=5000)

CACHE = "BOT_BOTTLE_CACHE_DIR"
STATE = "BOT_BOTTLE_STATE_DIR"


@pytest.fixture(scope="session", autouse=True)
def _no_user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep fixtures that outlive a test away from the user's cache too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("cache")))
        patch.setenv(STATE, str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def cache_dir(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test: a fresh one, or `shared_cache` for a test that asks for that."""
    shared = "shared_cache" in request.fixturenames
    folder: Path = request.getfixturevalue("shared_cache") if shared else tmp_path / "bot-bottle-cache"
    monkeypatch.setenv(CACHE, str(folder))
    monkeypatch.setenv(STATE, str(tmp_path / "bot-bottle-state"))
    return folder


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    """A secret whose value is in no other file or process."""
    return Canary.made(tmp_path / "key")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give the signals back that a test took: `run` takes them for good, and Ctrl-C has to end the tests."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session")
def shared_cache() -> Iterator[Path]:
    """A cache folder that lasts from run to run, for the emulated host, which takes long to make.

    Artifacts in it go when the run ends, so that no test passes by what an older version made. Where tests
    run beside each other, each worker has its own, with what is prepared from smolvm in common.
    """
    folder = FOLDER / os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    share(folder, "smolvm", "emulation")
    shutil.rmtree(folder / "smolmachines", ignore_errors=True)
    yield folder
    shutil.rmtree(folder / "smolmachines", ignore_errors=True)


def pytest_configure() -> None:
    """Let programs that tests start get signals, though whoever started the tests has some ignored.

    So do nohup, and a script's shell for what it starts in the background. These tests go on ignoring them:
    a handler, unlike what is ignored, is not handed on to other programs.

    Thousands of these programs are `bottle`: let Python keep what it has compiled.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for signum in (*SIGNALS, signal.SIGQUIT):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, _do_nothing)


def _do_nothing(_signum: int, _frame: FrameType | None) -> None:
    pass


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test run on each engine that it asks for."""
    engine_matrix.parametrize(metafunc)


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Choose the engines of each test, and put the tests of one engine after each other."""
    engine_matrix.select(items)
    engine_matrix.mark_slow(items)
    yield
    engine_matrix.sort(items)


@pytest.fixture(scope="session")
def engine_copy() -> str:
    """The copy of each docker engine that this process uses: none, all share one."""
    return ""


@pytest.fixture(scope="session")
def docker(request: pytest.FixtureRequest, engine_copy: str) -> Iterator[Docker]:
    """A real Docker engine. Its DOCKER_HOST, and its client where it has one, are in the environment then."""
    with (
        private_docker(getattr(request, "param", None) or "", engine_copy) as engine,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in engine.variables.items():
            patch.setenv(name, value)
        yield engine


@pytest.fixture(scope="session")
def podman(request: pytest.FixtureRequest) -> Iterator[Podman]:
    """podman with an empty storage of its own."""
    name: engine_matrix.Name = getattr(request, "param", None)
    with private_podman(name or "") as engine:
        yield engine


@pytest.fixture(scope="session")
def base_image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reference of a small image with a shell, for `FROM` in a test's Dockerfile."""
    reference = f"bot-bottle-test-base:{OWNER}"
    docker.build(busybox_context(tmp_path_factory.mktemp("base")), "--tag", reference)
    return reference


@pytest.fixture(scope="session")
def git_image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with a shell, git and a user by name."""
    return docker.build(git_context(tmp_path_factory.mktemp("git-image")))


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world that bottles could get out into, with the vendors of agents."""
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def base(docker: Docker) -> str:
    """An image with what agents call."""
    return agents.base_image(docker)

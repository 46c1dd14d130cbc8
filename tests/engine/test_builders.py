"""Builders of buildx: docker's own, one whose result has to be loaded, and those that do not work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.bottle import Bottle
from tests.support.builders import remote_builder
from tests.support.engine_matrix import BASE, fresh_context
from tests.support.engines import Docker, private_docker

STEP = "RUN --mount=type=secret,id=word sha256sum < /run/secrets/word > /sum && cat /run/secrets/word\n"


@pytest.fixture(scope="module")
def containerd(engine_copy: str) -> Iterator[Docker]:
    with private_docker("docker-28-containerd", engine_copy) as engine:
        yield engine


@pytest.fixture(
    scope="module",
    params=["docker-28-containerd", pytest.param("docker-28-overlay2", marks=pytest.mark.slow)],
)
def target(request: pytest.FixtureRequest, containerd: Docker, engine_copy: str) -> Iterator[Docker]:
    """The engine that the images are for; each has its client with buildx."""
    if request.param == "docker-28-containerd":
        yield containerd
        return
    with private_docker(request.param, engine_copy) as engine:
        yield engine


@pytest.fixture
def bottle(target: Docker, cache_dir: Path, tmp_path: Path) -> Bottle:
    """Run bottle with builders of this test's own."""
    return Bottle(cache_dir, {**target.variables, "BUILDX_CONFIG": str(tmp_path / "buildx")})


def buildx(bottle: Bottle, *args: str) -> None:
    done = subprocess.run(["docker", "buildx", *args], env=bottle.env(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def far(containerd: Docker, bottle: Bottle, tmp_path: Path) -> Iterator[str]:
    """A builder by its name. It keeps nothing for docker: what it makes has to come back."""
    with remote_builder(containerd.env["DOCKER_HOST"], tmp_path / "buildkit.sock") as address:
        buildx(bottle, "create", "--name=far", "--driver=remote", address)
        yield "far"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = fresh_context(tmp_path / "context")
    (folder / "Dockerfile").write_text(f"{BASE}RUN echo made > /made\n")
    return folder


def config_of(bottle: Bottle, context: Path, **changes: str) -> str:
    """The digest of the config that `bottle cache why` finds."""
    told = json.loads(bottle("cache", "why", "--json", context, env=changes).line)
    assert told["hit"]
    return str(told["config_digest"])


def test_the_result_of_a_builder_elsewhere_is_loaded(bottle: Bottle, far: str, context: Path) -> None:
    away = replace(bottle, changes={**bottle.changes, "BUILDX_BUILDER": far})
    first = away("pack", "--verify", "-v", context)
    assert first.code == 0, first
    again = away("pack", context)
    assert ("cached" in again.err, again.path) == (True, first.path)
    assert away.leftovers == []


def test_a_builder_elsewhere_gets_secrets_and_shows_none(bottle: Bottle, far: str, context: Path) -> None:
    (context / "Dockerfile").write_text(f"{BASE}{STEP}")
    secret = {"BUILDX_BUILDER": far, "WORD": "canary-of-a-builder"}
    done = bottle("pack", "-v", "--build-secret=id=word,env=WORD", context, env=secret)
    assert done.code == 0, done
    assert "canary-of-a-builder" not in done.err


def test_the_builder_in_use_is_that_of_an_alias(
    bottle: Bottle, far: str, context: Path, tmp_path: Path
) -> None:
    """`docker buildx install` makes `docker build` take the builder of `docker buildx use`."""
    config = shutil.copytree(bottle.env()["DOCKER_CONFIG"], tmp_path / "docker")
    settings = json.loads((config / "config.json").read_text())
    (config / "config.json").write_text(json.dumps({**settings, "aliases": {"builder": "buildx"}}))
    aliased = replace(bottle, changes={**bottle.changes, "DOCKER_CONFIG": str(config)})
    buildx(aliased, "use", far)
    done = aliased("pack", "-v", context)
    assert done.code == 0, done
    buildx(aliased, "use", "default")
    assert aliased("pack", context).code == 0
    classic = aliased("pack", "-v", context, env={"DOCKER_BUILDKIT": "0"})
    assert classic.code == 0, classic
    assert "--force-rm" in classic.err


def test_variables_of_the_user_change_no_image(bottle: Bottle, context: Path) -> None:
    assert bottle("pack", context).code == 0
    plain = config_of(bottle, context)
    for name, value in (
        ("BUILDX_NO_DEFAULT_ATTESTATIONS", "0"),
        ("BUILDX_METADATA_PROVENANCE", "max"),
        ("BUILDX_BUILDER", "default"),
        ("BUILDKIT_PROGRESS", "tty"),
        ("DOCKER_BUILDKIT", "1"),
    ):
        assert config_of(bottle, context, **{name: value}) == plain, name


def test_a_builder_that_is_not_there_is_named(bottle: Bottle, context: Path) -> None:
    done = bottle("pack", context, env={"BUILDX_BUILDER": "nowhere"})
    done.failed(103, "docker's builder does not work", "nowhere", "docker buildx ls")


def test_a_builder_whose_image_cannot_be_pulled_is_named(bottle: Bottle, context: Path) -> None:
    image = "--driver-opt=image=127.0.0.1:1/buildkit"
    buildx(bottle, "create", "--name=box", "--driver=docker-container", image)
    try:
        done = bottle("pack", context, env={"BUILDX_BUILDER": "box"})
        done.failed(103, "docker's builder does not work", "booting buildkit", "BUILDX_BUILDER")
    finally:
        buildx(bottle, "rm", "--force", "box")
    assert bottle.leftovers == []


def test_a_folder_of_buildx_that_cannot_be_written_is_named(
    bottle: Bottle, context: Path, tmp_path: Path
) -> None:
    (tmp_path / "buildx").write_text("in the way\n")
    done = bottle("pack", context)
    assert done.code in (103, 104), done
    assert os.fspath(tmp_path / "buildx") in done.err

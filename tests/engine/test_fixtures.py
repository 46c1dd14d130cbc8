"""The engines that the other tests stand on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.engine_matrix import DOCKERS, PODMANS, unit
from tests.support.engines import CHOSEN, SCRIPT, Docker, Podman
from tests.support.images import busybox_context


@pytest.mark.always
@pytest.mark.each_docker
def test_docker_builds_and_runs_an_image(docker: Docker, base_image: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo made > /made\n")
    image = docker.build(tmp_path)
    assert image.startswith("sha256:")
    assert docker.docker("run", "--rm", image, "cat", "/made") == b"made\n"


@pytest.mark.always
@pytest.mark.each_podman
def test_podman_builds_and_saves_an_image(podman: Podman, tmp_path: Path) -> None:
    context = busybox_context(tmp_path / "context")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY rootfs /\nRUN echo made > /made\n")
    image = podman.build(context)
    archive = tmp_path / "image.tar"
    podman.podman("save", "--output", str(archive), image)
    assert archive.stat().st_size > 1_000_000


def test_the_matrix_has_every_engine_of_scripts_engine() -> None:
    listed = subprocess.run([SCRIPT, "list"], capture_output=True, check=True, timeout=30).stdout.decode()
    names = {line.split()[0] for line in listed.splitlines() if not line.startswith("qemu-")}
    assert CHOSEN in names if CHOSEN else {*DOCKERS, *PODMANS} - {None} == names


def test_tests_of_an_engine_or_of_a_file_are_one_unit() -> None:
    assert unit("tests/engine/test_a.py::test_x") == unit("tests/engine/test_a.py::test_y[own podman]")
    if not CHOSEN:
        name = "docker-28-containerd"
        assert (
            unit(f"tests/engine/test_a.py::test_x[{name}-2]") == unit(f"tests/b.py::test[x-{name}]") == name
        )

"""However an image leaves its engine, the same artifact comes of it; and only what has changed is moved."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bot_bottle.engine.engine import Engine
from tests.support.bottle import Bottle
from tests.support.engine_matrix import CASES, CONTAINERD, OVERLAY2, PODMAN, Case, dockerfile, fresh_context
from tests.support.engines import CHOSEN, LABEL, OWNER, Docker
from tests.support.smolmachines import listed

TRANSPORTS = ("save", "direct", "push", "auto")
STEPS = """
COPY --chown=7:8 large /large
RUN echo one > /one; ln /one /two; ln -s /nowhere /link; mkdir -m 1777 /d; echo x > "/d/$(printf 'a\\nb')"
RUN rm /one; mv /d /e; chmod 4755 /bin/busybox; touch -d @0 /e; mkfifo /e/p
"""


@pytest.mark.any_builder
@pytest.mark.podmans_slow
def test_every_transport_gives_the_same_artifact(engine_case: Case, engine: Engine, tmp_path: Path) -> None:
    # an old client does not say which containerd the images are in
    told = (engine_case.engine or CHOSEN) != CONTAINERD or bool(engine.info().get("Containerd"))
    folder = fresh_context(tmp_path / "context")
    (folder / "large").write_bytes(os.urandom(9_000_000))
    image = engine.build(dockerfile(folder, STEPS), lambda _line: None)
    engine.tag(image, f"bot-bottle-test-way-out:{OWNER}")  # docker 26 loses one without a name
    digests = {}
    for transport in (each for each in TRANSPORTS if told or each != "direct"):
        bottle = Bottle(tmp_path / transport)
        done = bottle("pack", "--json", "--image", image, "--engine", engine.name, "--transport", transport)
        digests[transport] = json.loads(done.line)["digest"]
        direct = f"read from {engine.name}'s storage" in done.err
        assert direct == (told and transport in ("direct", "auto")), done.err
        assert not bottle.leftovers
    assert len(set(digests.values())) == 1, digests
    engine.untag(f"bot-bottle-test-way-out:{OWNER}")


def packed(bottle: Bottle, image: str, *args: str) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(bottle("pack", "--json", "--image", image, *args).line)
    return described


def kept(bottle: Bottle) -> tuple[set[str], set[bytes]]:
    """Give what is known of layers, and the keys of all parts of artifacts."""
    lists = (bottle.cache / "smolmachines").glob("*.parts")
    return (
        {path.name for path in (bottle.cache / "headers").iterdir()},
        {key for path in lists for key in listed(path)},
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_changed_layer_adds_only_its_own_parts(
    bottle: Bottle, docker: Docker, tmp_path: Path, base_image: str, transport: str
) -> None:
    digests, images = [], []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "file").write_bytes(os.urandom(100_000))
        (folder / "Dockerfile").write_text(f"FROM {base_image}\nLABEL {LABEL}={OWNER}\nCOPY file /file\n")
        images.append(docker.build(folder))
    packed(bottle, images[0], "--transport", transport)
    headers, parts = kept(bottle)
    digests.append(packed(bottle, images[1], "--transport", transport)["digest"])
    now = kept(bottle)
    assert (len(now[0] - headers), len(now[1] - parts)) == (1, 1)  # the new layer's headers and its file
    other = Bottle(tmp_path / "other", bottle.changes)
    digests.append(packed(other, images[1], "--transport", "save")["digest"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("docker", [OVERLAY2 if "containerd" in CHOSEN else None], indirect=True)
def test_a_storage_whose_files_have_changed_is_not_used(
    bottle: Bottle, docker: Docker, image: str, tmp_path: Path
) -> None:
    """With an engine that says it keeps its images elsewhere, where a file of one has changed."""
    root = Path(json.loads(docker.docker("info", "--format", "{{json .DockerRootDir}}")))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "overlay2").mkdir(parents=True)
    (elsewhere / "image").symlink_to(root / "image")
    for layer in (root / "overlay2").iterdir():
        if (layer / "diff" / "one").is_file():
            copied = elsewhere / "overlay2" / layer.name / "diff"
            shutil.copytree(layer / "diff", copied, symlinks=True)
            (copied / "one").write_text("uno\n")
        else:
            (elsewhere / "overlay2" / layer.name).symlink_to(layer)
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    info = docker.docker("info", "--format", "{{json .}}").decode().replace(str(root), str(elsewhere))
    (tmp_path / "info").write_text(info)
    program.write_text(
        f'#!/bin/sh\n[ "$1" = info ] && exec cat {tmp_path}/info\nPATH=$REST exec docker "$@"\n'
    )
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}", "REST": os.environ["PATH"]}
    done = bottle("pack", "--image", image, env=env)
    assert "direct does not work here" in done.err
    other = Bottle(tmp_path / "other", bottle.changes)
    wanted = packed(other, image, "--transport", "save")
    assert packed(bottle, image)["digest"] == wanted["digest"]
    forced = Bottle(tmp_path / "forced", bottle.changes)(
        "pack", "--image", image, "--transport", "direct", env=env
    )
    forced.failed(105, "damaged")


def test_an_image_whose_storage_cannot_be_read_is_saved(bottle: Bottle, image: str, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = info ] && exit 1\nPATH=$REST exec docker "$@"\n')
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}", "REST": os.environ["PATH"]}
    done = bottle("pack", "--image", image, env=env)
    assert done.path
    assert "from docker" in done.err
    refused = bottle("pack", "--image", image, "--transport", "direct", "-o", tmp_path / "out", env=env)
    assert refused.code == 0, "what is in the cache needs no transport"
    other = Bottle(tmp_path / "other", bottle.changes)
    other("pack", "--image", image, "--transport", "direct", env=env).failed(
        103, "cannot be read from the storage of docker"
    )


def test_an_archive_with_a_transport_of_engines_is_refused(bottle: Bottle, saved: Path) -> None:
    for transport in ("direct", "push"):
        bottle("pack", "--archive", saved, "--transport", transport).failed(2, "needs an image in an engine")
    assert bottle("pack", "--archive", saved, "--transport", "save").path


def test_podman_is_in_the_matrix() -> None:
    assert CHOSEN.startswith("docker") or any(case.kind == PODMAN for case in CASES)

"""Layers that engines compress by zstd: the artifact is that of the same layers compressed by gzip."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot_bottle import ephemeral_registry
from bot_bottle.registry.registry import Registry
from tests.support.bottle import Bottle
from tests.support.engine_matrix import fresh_context
from tests.support.engines import LABEL, OWNER, Docker, Podman

ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
FORMS = ("zstd", pytest.param("zstd:chunked", marks=pytest.mark.slow))
TRANSPORTS = ("save", "direct", "push")
NAME = f"bot-bottle-test-zstd:{OWNER}"
LINES = f"""\
FROM scratch
LABEL {LABEL}={OWNER}
COPY rootfs /
RUN echo one > /one; ln /one /two; mkdir /d; echo x > /d/x; head -c 3000000 /dev/zero > /zeros
RUN rm /one; mv /d /e; chmod 4755 /bin/busybox; mkfifo /e/p
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = fresh_context(tmp_path / "context")
    (folder / "Dockerfile").write_text(LINES)
    return folder


def digest_of(cache: Path, changes: dict[str, str], *args: str | Path) -> str:
    """Pack into an empty cache; return the artifact's digest."""
    bottle = Bottle(cache, changes)
    described = json.loads(bottle("pack", "--json", "--verify", *args).line)
    assert not bottle.leftovers
    shutil.rmtree(cache)
    return str(described["digest"])


def by_every_transport(folder: Path, changes: dict[str, str], engine: str, ref: str) -> set[str]:
    """Return the digests of the artifacts to which the ways out of an engine lead."""
    return {
        digest_of(folder / way, changes, "--engine", engine, "--image", ref, "--transport", way)
        for way in TRANSPORTS
    }


def layer_types(documents: Iterator[bytes]) -> set[str]:
    """Return the media types of the layers in those of the files that are manifests of images."""
    types = set()
    for text in documents:
        document: dict[str, Any] = json.loads(text) if text.startswith(b"{") else {}
        if "config" in document and "layers" in document:
            types |= {layer["mediaType"] for layer in document["layers"]}
    return types - {"application/vnd.in-toto+json"}


def in_saved(archive: Path) -> Iterator[bytes]:
    """Read the small files of an archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() and member.size < 50_000 else None
            yield file.read() if file else b""


def in_layout(layout: Path) -> Iterator[bytes]:
    for path in (layout / "blobs" / "sha256").iterdir():
        yield path.read_bytes() if path.stat().st_size < 50_000 else b""


@pytest.mark.parametrize(
    "docker",
    [pytest.param("docker-26-containerd", marks=pytest.mark.slow), "docker-28-containerd"],
    indirect=True,
)
@pytest.mark.parametrize("attested", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_zstd_layers_that_docker_builds_give_the_same_artifact(
    docker: Docker, context: Path, tmp_path: Path, attested: str
) -> None:
    """Where containerd has the images, buildx chooses the compression."""
    by_gzip = docker.build(context)
    docker.docker("tag", by_gzip, f"{NAME}-gzip")
    output = f"type=image,name={NAME},compression=zstd,force-compression=true,oci-mediatypes=true"
    docker.docker("buildx", "build", "--output", output, f"--provenance={attested}", str(context))
    saved = tmp_path / "saved.tar"
    docker.docker("save", "--output", str(saved), NAME)
    assert layer_types(in_saved(saved)) == {ZSTD}
    try:
        digests = by_every_transport(tmp_path, docker.variables, "docker", NAME)
        digests.add(digest_of(tmp_path / "archive", {}, "--archive", saved))
        digests.add(digest_of(tmp_path / "gzip", docker.variables, "--image", f"{NAME}-gzip"))
        assert len(digests) == 1
    finally:
        docker.docker("rmi", NAME, f"{NAME}-gzip")


@pytest.fixture(params=FORMS)
def pushed(
    request: pytest.FixtureRequest, podman: Podman, context: Path, tmp_path: Path
) -> Iterator[tuple[Registry, str]]:
    """A registry to which podman pushed an image as app:latest, and the digest of its artifact."""
    image = podman.build(context)
    digest = digest_of(tmp_path / "plain", podman.variables, "--engine=podman", "--image", image)
    how = ("--quiet", f"--compression-format={request.param}")
    with ephemeral_registry(push=True) as registry:
        podman.podman("push", *how, "--tls-verify=false", image, f"docker://{registry.target('app')}")
        podman.podman("push", *how, image, f"oci:{tmp_path}/layout")
        podman.podman("rmi", "--force", image)
        assert layer_types(in_layout(tmp_path / "layout")) == {ZSTD}
        yield registry, digest


@pytest.mark.each_podman
@pytest.mark.podmans_slow
def test_zstd_layers_that_podman_pushes_give_the_same_artifact(
    pushed: tuple[Registry, str], podman: Podman, tmp_path: Path
) -> None:
    """To a folder, and to a registry from which it pulls them."""
    registry, digest = pushed
    assert digest_of(tmp_path / "folder", {}, "--archive", tmp_path / "layout") == digest
    target = registry.target("app")
    podman.podman("pull", "--quiet", "--tls-verify=false", target)
    try:
        assert by_every_transport(tmp_path, podman.variables, "podman", target) == {digest}
    finally:
        podman.podman("rmi", "--force", target)


@pytest.mark.each_docker
def test_zstd_layers_that_docker_pulls_give_the_same_artifact(
    pushed: tuple[Registry, str], docker: Docker, tmp_path: Path
) -> None:
    """Those before docker 23 do not know zstd."""
    registry, digest = pushed
    target = registry.target("app")
    if int(docker.docker("version", "--format", "{{.Server.Version}}").split(b".")[0]) < 23:
        with pytest.raises(AssertionError, match="invalid tar header"):
            docker.docker("pull", "--quiet", target)
        return
    docker.docker("pull", "--quiet", target)
    try:
        assert by_every_transport(tmp_path, docker.variables, "docker", target) == {digest}
    finally:
        docker.docker("rmi", target)

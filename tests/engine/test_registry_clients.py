"""The ephemeral registry and clients that were not written for it: the same image, the same digest."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from bot_bottle import ephemeral_registry
from bot_bottle.engine.engine import Engine
from bot_bottle.registry.registry import Reference, Registry
from tests.support.clients import (
    Client,
    Crane,
    DockerClient,
    PodmanClient,
    Skopeo,
    crane_program,
    in_layout,
)
from tests.support.engine_matrix import Case, docker_clients, use
from tests.support.engines import OWNER, Docker, Podman, call
from tests.support.layouts import FORMS, Form, archive
from tests.support.wire import Wire

DOCKERS = {str(program): program for program in docker_clients()}
CLIENTS = ["skopeo", "crane", "podman", *DOCKERS]


@pytest.fixture(scope="module")
def config(saved: Path) -> str:
    """The digest of the image's config: the one word for the image that is the same for every engine."""
    with tarfile.open(saved) as tar:
        listing = tar.extractfile("manifest.json")
        assert listing is not None
        [entry] = json.load(listing)
    return f"sha256:{Path(entry['Config']).stem}"


@pytest.fixture(scope="module")
def clients(
    docker: Docker,
    podman: Podman,
    image: str,
    config: str,
    saved: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Client]]:
    """Every client, with the image at hand in the form that it pushes."""
    layout = archive(saved, "oci-folder", tmp_path_factory.mktemp("layout"))
    crane = crane_program(tmp_path_factory.mktemp("crane"))
    kept = f"bot-bottle-test-registry:{OWNER}"
    docker.docker("tag", image, kept)  # an image goes with its last name
    yield {
        "skopeo": Skopeo(layout),
        "crane": Crane(crane, layout),
        "podman": PodmanClient(podman, saved, config),
        **{name: DockerClient(name, image, config, docker.env) for name in DOCKERS},
    }
    docker.docker("rmi", kept)


@pytest.mark.parametrize("name", CLIENTS)
def test_what_is_loaded_is_pulled(clients: dict[str, Client], saved: Path, name: str, tmp_path: Path) -> None:
    with ephemeral_registry() as registry:
        reference = registry.load(saved, "app")
        assert clients[name].pull(str(reference), tmp_path / "pulled") == str(reference.digest)


@pytest.mark.parametrize("pusher", CLIENTS)
def test_what_one_client_pushes_all_the_others_pull(
    clients: dict[str, Client], config: str, pusher: str, tmp_path: Path
) -> None:
    with ephemeral_registry(push=True) as registry:
        clients[pusher].push(registry.target("pushed"))
        reference = registry.resolve("pushed")
        for number, client in enumerate(clients.values()):
            # a client may take this machine's image out of an index
            assert client.pull(str(reference), tmp_path / str(number)) in manifests_of(registry, reference)
        assert config_of(registry, reference) == config


@pytest.mark.parametrize("name", ["skopeo", "crane"])
def test_clients_that_change_nothing_bring_back_the_same_digest(
    clients: dict[str, Client], name: str
) -> None:
    client = clients[name]
    with ephemeral_registry(push=True) as registry:
        client.push(registry.target("back"))
        assert str(registry.resolve("back").digest) == in_layout(cast(Skopeo | Crane, client).layout)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_archive_is_served(saved: Path, form: Form, tmp_path: Path, config: str) -> None:
    with ephemeral_registry() as registry:
        reference = registry.load(archive(saved, form, tmp_path), "app")
        assert Skopeo(tmp_path).pull(str(reference), tmp_path / "pulled") == str(reference.digest)
        assert config_of(registry, reference) == config


@pytest.mark.parametrize("name", [*DOCKERS, "podman"])
def test_an_engine_loads_and_pushes_its_image(
    name: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    image: str,
    config: str,
    saved: Path,
    clients: dict[str, Client],
) -> None:
    engine: Engine = use(Case(name), request, monkeypatch, tmp_path)
    if engine.name == "podman":
        call(["podman", "load", "--input", str(saved)], dict(os.environ))
        image = config
    said: list[str] = []
    with ephemeral_registry(push=True) as registry:
        loaded = registry.load_image(engine, image, "loaded")
        pushed = registry.push_image(engine, image, "pushed", said.append)
        assert config_of(registry, loaded) == config_of(registry, pushed) == config
        target = registry.target("pushed")
        assert said
        assert not engine.exists(target)  # the name that it was pushed by is gone


@pytest.mark.parametrize("name", DOCKERS)
def test_docker_pushes_a_layer_to_one_registry_and_no_more_to_the_next(
    name: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    docker: Docker,
    clients: dict[str, Client],
) -> None:
    engine = use(Case(name), request, monkeypatch, tmp_path)
    monkeypatch.setenv("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")  # they have a layer of their own
    (tmp_path / "file").write_bytes(os.urandom(20_000_000))  # docker asks for none that is small
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY file /file\n")
    image = f"bot-bottle-test-kept:{OWNER}"
    docker.build(tmp_path, "--tag", image)
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        said: list[str] = []
        with ephemeral_registry(push=True, keep=tmp_path / "layers") as registry:
            reference = registry.push_image(engine, image, "app", said.append)
            assert clients["skopeo"].pull(str(reference), tmp_path / f"pulled-{len(seen)}")
        seen.append((sum("Pushed" in line for line in said), sum("already exists" in line for line in said)))
    assert seen == [(1, 0), (0, 1)]


def config_of(registry: Registry, reference: Reference) -> str:
    """Give the digest of an image's config; of an index, that of the image for amd64."""
    *_, digest = manifests_of(registry, reference)
    return str(manifest(registry, reference, digest)["config"]["digest"])


def manifests_of(registry: Registry, reference: Reference) -> list[str]:
    """Give the digest of what a reference means, and if it is an index those that lead to its amd64 image."""
    found = [str(reference.digest)]
    while listed := manifest(registry, reference, found[-1]).get("manifests"):
        platforms = {each["digest"]: each.get("platform", {}).get("architecture", "amd64") for each in listed}
        found += [digest for digest, architecture in platforms.items() if architecture == "amd64"]
    return found


def manifest(registry: Registry, reference: Reference, digest: str) -> dict[str, Any]:
    with Wire(registry.port, registry.prefix) as wire:
        document: dict[str, Any] = wire.ask("GET", f"/v2/{reference.repository}/manifests/{digest}").json
        return document

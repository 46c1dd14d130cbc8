"""The ephemeral registry and clients that were not written for it: the same image, the same digest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from bot_bottle import ephemeral_registry
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.registry.registry import Reference, Registry
from tests.support.clients import (
    Client,
    Crane,
    DockerClient,
    PodmanClient,
    Skopeo,
    in_layout,
)
from tests.support.engine_matrix import Case, docker_clients
from tests.support.engines import OWNER, Docker, Podman, call
from tests.support.layouts import FORMS, Form, archive
from tests.support.wire import Wire

# the one that comes with the engine, and that of this machine
DOCKERS = {"docker": "docker", "own docker": str(docker_clients()[0])}


@pytest.fixture(scope="module")
def clients(
    docker: Docker,
    podman: Podman,
    image: str,
    image_config: str,
    saved: Path,
    crane: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Client]]:
    """Every client, with the image at hand in the form that it pushes."""
    layout = archive(saved, "oci-folder", tmp_path_factory.mktemp("layout"))
    kept = f"bot-bottle-test-registry:{OWNER}"
    docker.docker("tag", image, kept)  # an image goes with its last name
    yield {
        "skopeo": Skopeo(layout),
        "crane": Crane(crane, layout),
        "podman": PodmanClient(podman, saved, image_config),
        **{name: DockerClient(program, image, image_config, docker.env) for name, program in DOCKERS.items()},
    }
    docker.docker("rmi", kept)


@pytest.mark.one_client
@pytest.mark.podmans_slow
def test_an_engines_clients_pull_what_is_loaded_and_push_what_all_others_pull(
    engine_case: Case, clients: dict[str, Client], saved: Path, image_config: str, tmp_path: Path
) -> None:
    for pusher in DOCKERS if engine_case.kind == "docker" else ("podman",):
        with ephemeral_registry(push=True) as registry:
            reference = registry.load(saved, "app")
            pulled = clients[pusher].pull(str(reference), tmp_path / f"{pusher} loaded")
            assert pulled == str(reference.digest)
            clients[pusher].push(registry.target("pushed"))
            reference = registry.resolve("pushed")
            for name, other in clients.items():
                assert other.pull(str(reference), tmp_path / f"{pusher} {name}") == str(reference.digest)
            assert config_of(registry, reference) == image_config


@pytest.mark.parametrize("name", ["skopeo", "crane"])
def test_a_client_without_an_engine_pulls_what_is_loaded_and_pushes_the_same_digest(
    clients: dict[str, Client], saved: Path, image_config: str, name: str, tmp_path: Path
) -> None:
    """Which all others pull."""
    client = clients[name]
    with ephemeral_registry(push=True) as registry:
        reference = registry.load(saved, "app")
        assert client.pull(str(reference), tmp_path / "loaded") == str(reference.digest)
        client.push(registry.target("back"))
        reference = registry.resolve("back")
        assert str(reference.digest) == in_layout(cast(Skopeo | Crane, client).layout)
        for number, other in enumerate(clients.values()):
            assert other.pull(str(reference), tmp_path / str(number)) == str(reference.digest)
        assert config_of(registry, reference) == image_config


@pytest.mark.each_docker
@pytest.mark.others_slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_archive_is_served(saved: Path, form: Form, tmp_path: Path, image_config: str) -> None:
    with ephemeral_registry() as registry:
        reference = registry.load(archive(saved, form, tmp_path), "app")
        assert Skopeo(tmp_path).pull(str(reference), tmp_path / "pulled") == str(reference.digest)
        assert config_of(registry, reference) == image_config


@pytest.mark.any_builder
@pytest.mark.podmans_slow
def test_an_image_of_an_engine_is_the_same_loaded_or_pushed(
    engine: Engine, image: str, image_config: str, saved: Path
) -> None:
    if engine.name == "podman":
        call(["podman", "load", "--input", str(saved)], dict(os.environ))
        image = image_config
    said: list[str] = []
    with ephemeral_registry(push=True) as registry:
        loaded = registry.load_image(engine, image, "loaded")
        pushed = registry.push_image(engine, image, "pushed", said.append)
        assert config_of(registry, loaded) == config_of(registry, pushed) == image_config
        target = registry.target("pushed")
        assert said
        assert not engine.exists(target)  # the name that it was pushed by is gone


@pytest.mark.each_docker
def test_docker_pushes_a_layer_to_one_registry_and_no_more_to_the_next(
    tmp_path: Path, docker: Docker, clients: dict[str, Client]
) -> None:
    engine = find_engine("docker")
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
    assert seen[0] in ((1, 0), (2, 0))  # an attestation is a layer too
    assert seen[1] == (0, 1)


def config_of(registry: Registry, reference: Reference) -> str:
    """Return the digest of an image's config, which in an index is the only image beside its attestations."""
    with Wire(registry.port, registry.prefix) as wire:

        def manifest(digest: str) -> dict[str, Any]:
            described: dict[str, Any] = wire.ask("GET", f"/v2/{reference.repository}/manifests/{digest}").json
            return described

        found = manifest(str(reference.digest))
        if "manifests" in found:
            [image] = [each for each in found["manifests"] if each["platform"]["os"] != "unknown"]
            found = manifest(image["digest"])
        return str(found["config"]["digest"])

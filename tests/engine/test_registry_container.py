"""The registry as a container, with an image of Debian's docker-registry made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_bottle import ephemeral_registry
from bot_bottle.engine.engine import find_engine
from bot_bottle.errors import RegistryError
from bot_bottle.image.spec import Digest
from bot_bottle.registry.container import IMAGE_VARIABLE, LABEL
from tests.support.clients import Skopeo
from tests.support.engines import Docker
from tests.support.wire import Wire


def no_container(docker: Docker) -> bool:
    return docker.docker("ps", "-aq", "--filter", f"label={LABEL}") == b""


def test_a_registry_in_a_container_serves_what_the_embedded_one_serves(
    docker: Docker, registry_image: str, saved: Path, image: str, tmp_path: Path
) -> None:
    with ephemeral_registry() as embedded:
        expected = embedded.load(saved, "app").digest
    with ephemeral_registry("container", push=True) as registry:
        loaded = registry.load(saved, "app")
        assert loaded.digest == expected
        assert Skopeo(tmp_path).pull(str(loaded), tmp_path / "loaded") == str(expected)
        pushed = registry.push_image(find_engine("docker"), image, "pushed")
        assert Skopeo(tmp_path).pull(str(pushed), tmp_path / "pushed") == str(pushed.digest)
        with Wire(registry.port, registry.prefix) as wire:
            assert wire.ask("GET", f"app/blobs/{Digest.of(b'no')}").status == 404
    assert no_container(docker)


def test_a_registry_in_a_container_listens_on_loopback_alone(docker: Docker, registry_image: str) -> None:
    with ephemeral_registry("container") as registry:
        [container] = docker.docker("ps", "-q", "--filter", f"label={LABEL}").decode().split()
        bindings = docker.docker("port", container).decode().splitlines()
        assert bindings == [f"5000/tcp -> 127.0.0.1:{registry.port}"]


def test_a_registry_in_a_container_is_removed_when_its_block_fails(
    docker: Docker, registry_image: str
) -> None:
    with pytest.raises(ZeroDivisionError), ephemeral_registry("container"):
        raise ZeroDivisionError
    assert no_container(docker)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo famous last words; exit 3", ["exited before it was ready", "exit status 3"]),
        pytest.param(
            "echo famous last words; exec sleep 60",
            ["not ready within 10 s", "does not answer"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_registry_that_does_not_start_shows_its_last_output(
    docker: Docker,
    base_image: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    script: str,
    words: list[str],
) -> None:
    (tmp_path / "Dockerfile").write_text(f'FROM {base_image}\nENTRYPOINT ["sh", "-c", "{script}"]\n')
    monkeypatch.setenv(IMAGE_VARIABLE, docker.build(tmp_path))
    with pytest.raises(RegistryError) as caught, ephemeral_registry("container"):
        raise AssertionError("it cannot be ready")
    for word in [*words, "famous last words"]:
        assert word in str(caught.value)
    assert no_container(docker)


def test_a_registry_image_that_cannot_be_pulled_is_refused(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "127.0.0.1:1/nothing")
    with pytest.raises(RegistryError, match="cannot be pulled") as caught, ephemeral_registry("container"):
        raise AssertionError("there is no such image")
    assert IMAGE_VARIABLE in caught.value.next_step
    assert no_container(docker)

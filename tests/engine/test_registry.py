"""The ephemeral registry and clients that were not written for it; and what a killed one leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from bot_bottle import paths, rundir
from bot_bottle.errors import RegistryError
from bot_bottle.image.engine import find_engine
from bot_bottle.image.oci import Digest
from bot_bottle.registry.container import IMAGE_VARIABLE, LABEL
from bot_bottle.registry.ephemeral import SWEEPERS, ephemeral_registry
from tests.support.bottle import Bottle
from tests.support.engines import Docker, Podman
from tests.support.layouts import FORMS, Form, archive
from tests.support.wire import Wire


def skopeo(*args: str) -> bytes:
    done = subprocess.run(["skopeo", *args], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def registry_image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of Debian's docker-registry, made as the registry's own image is."""
    program = shutil.which("docker-registry")
    assert program, "docker-registry is not installed"
    folder = tmp_path_factory.mktemp("registry-image")
    shutil.copy(program, folder / "registry")
    libraries = subprocess.run(["ldd", program], capture_output=True, check=True).stdout.decode().split()
    for library in [each for each in libraries if each.startswith("/")]:
        target = folder / "root" / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    (folder / "root").mkdir(exist_ok=True)
    (folder / "config.yml").write_text(
        "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\nhttp: {addr: ':5000'}\n"
    )
    (folder / "Dockerfile").write_text(
        "FROM scratch\nCOPY root /\nCOPY registry /registry\nCOPY config.yml /config.yml\n"
        'EXPOSE 5000\nENTRYPOINT ["/registry", "serve", "/config.yml"]\n'
    )
    return docker.build(folder)


@pytest.mark.parametrize("form", FORMS)
def test_skopeo_copies_every_form_of_archive(saved: Path, form: Form, tmp_path: Path) -> None:
    with ephemeral_registry() as registry:
        reference = registry.load(archive(saved, form, tmp_path), "app")
        target = tmp_path / "copied"
        skopeo(
            "copy", "--preserve-digests", "--src-tls-verify=false", f"docker://{reference}", f"oci:{target}:x"
        )
        index = json.loads((target / "index.json").read_text())
        assert index["manifests"][0]["digest"] == str(reference.digest)


def test_docker_pushes_and_pulls(docker: Docker, image: str) -> None:
    engine = find_engine("docker")
    docker.docker("tag", image, "bot-bottle-test-registry:kept")  # an image goes with its last name
    with ephemeral_registry(push=True) as registry:
        pushed = registry.push_image(engine, image, "app")
        docker.docker("pull", str(pushed))
        assert docker.docker("inspect", "-f", "{{.Id}}", str(pushed)).decode().strip() == image
        docker.docker("rmi", str(pushed))
        loaded = registry.load_image(engine, image, "loaded")
        docker.docker("pull", str(loaded))
        assert docker.docker("inspect", "-f", "{{.Id}}", str(loaded)).decode().strip() == image
        docker.docker("rmi", str(loaded))


def test_podman_pulls_and_pushes(podman: Podman, saved: Path) -> None:
    with ephemeral_registry(push=True) as registry:
        reference = registry.load(saved, "app")
        podman.podman("pull", "--tls-verify=false", str(reference))
        podman.podman("push", "--tls-verify=false", str(reference), f"docker://{registry.target('back')}")
        config = json.loads(
            skopeo("inspect", "--raw", "--config", "--tls-verify=false", f"docker://{reference}")
        )
        back = skopeo(
            "inspect", "--raw", "--config", "--tls-verify=false", f"docker://{registry.resolve('back')}"
        )
        assert json.loads(back)["rootfs"] == config["rootfs"]


def test_bottle_registry_serves_while_a_command_runs(bottle: Bottle, saved: Path) -> None:
    done = subprocess.run(
        ["bottle", "registry", "-q", str(saved), "--", "sh", "-c",
         "skopeo inspect --tls-verify=false --format '{{.Digest}}' docker://{ref};"
         "echo $BOT_BOTTLE_REF; exit 7"],
        env={**os.environ, "BOT_BOTTLE_CACHE_DIR": str(paths.cache_dir())},
        capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    digest, reference = done.stdout.decode().split()
    assert reference.endswith(f"@{digest}")
    assert list(paths.runs_dir().iterdir()) == []


def test_the_container_form_serves_the_same(
    docker: Docker, registry_image: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, registry_image)
    with ephemeral_registry() as embedded:
        expected = embedded.load(saved, "app").digest
    with ephemeral_registry("container", push=True) as registry:
        reference = registry.load(saved, "app")
        assert reference.digest == expected
        skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
        with Wire(registry.port, registry.prefix) as wire:
            assert wire.ask("GET", f"app/blobs/{Digest.of(b'no')}").status == 404
    assert docker.docker("ps", "-aq", "--filter", f"label={LABEL}") == b""


def test_a_container_that_is_no_registry_shows_its_last_words(
    docker: Docker, base_image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        f'FROM {base_image}\nENTRYPOINT ["sh", "-c", "echo famous last words"]\n'
    )
    monkeypatch.setenv(IMAGE_VARIABLE, docker.build(tmp_path))
    with pytest.raises(RegistryError, match="famous last words"), ephemeral_registry("container"):
        raise AssertionError("it cannot be ready")
    assert docker.docker("ps", "-aq", "--filter", f"label={LABEL}") == b""


@pytest.mark.parametrize("form", ["embedded", "container"])
def test_after_sigkill_the_next_command_leaves_nothing(
    docker: Docker, registry_image: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, registry_image)
    with subprocess.Popen(
        ["bottle", "registry", "--push", "--form", form], stdout=subprocess.PIPE, start_new_session=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().startswith(b"127.0.0.1:")
        owner.send_signal(signal.SIGKILL)
    assert len(list(paths.runs_dir().iterdir())) == 1
    assert rundir.sweep(SWEEPERS) == 1
    assert list(paths.runs_dir().iterdir()) == []
    assert docker.docker("ps", "-aq", "--filter", f"label={LABEL}") == b""

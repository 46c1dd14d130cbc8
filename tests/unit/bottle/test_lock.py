"""bottle.lock: what is pinned is what a run is made of, and what differs is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support.crafted import digest, file, layer, saved, saved_files
from tests.support.fake_docker import FakeDocker

from bot_bottle.bottle.lock import Lock
from bot_bottle.cache.cache import Key
from bot_bottle.cli.main import bottle
from bot_bottle.engine.bases import base_images
from bot_bottle.engine.commands import BuildRequest
from bot_bottle.errors import SpecError
from bot_bottle.image.spec import Digest
from bot_bottle.structs import replace

DOCKERFILE = """\
# syntax=docker/dockerfile:1
ARG TAG=12
ARG NAME="debian" NONE
ARG EMPTY
FROM --platform=linux/amd64 ${NAME}:${TAG} AS base
ARG TAG=99
FROM base AS second
COPY --from=example.org/tools@sha256:%s /a /a
COPY --chown=1:1 --from=base /b /b
COPY --from=0 /c /c
from scratch as Third
COPY --from=third /d /d
FROM $UNSET/x
FROM alpine:${EMPTY:-3.20}
FROM \\
  busybox
RUN FROM=no-image
"""


def test_base_images_are_those_of_the_dockerfile(tmp_path: Path) -> None:
    digest = "a" * 64
    (tmp_path / "Dockerfile").write_text(DOCKERFILE % digest)
    tools = f"example.org/tools@sha256:{digest}"
    found = base_images(BuildRequest(context=tmp_path))
    assert found == ["debian:12", tools, "alpine:3.20", "busybox"]
    given = base_images(BuildRequest(context=tmp_path, build_args=(("TAG", "13"),)))
    assert given[0] == "debian:13"


@pytest.fixture
def lock(key: Key) -> Lock:
    return Lock(Digest.of(b"artifact"), key, {"debian:12": f"sha256:{'a' * 64}"}, {"claude": "1.0.0"})


def test_a_lock_is_read_as_it_was_written(tmp_path: Path, lock: Lock) -> None:
    path = tmp_path / "bottle.lock"
    lock.write(path)
    assert Lock.read(path) == lock
    assert [each.name for each in tmp_path.iterdir()] == ["bottle.lock"]


def test_each_difference_is_said(lock: Lock, key: Key) -> None:
    assert not lock.changes(lock)
    other = Lock(
        Digest.of(b"other"),
        replace(key, smolvm_version="1.33.0", config_digest=Digest.of(b"image 2")),
        {"debian:12": f"sha256:{'b' * 64}", "alpine:3": ""},
        {"codex": "2.0.0"},
    )
    said = "\n".join(map(str, lock.changes(other)))
    for part in ("config digest", "smolvm version: 1.32.2 -> 1.33.0", "artifact: sha256", "debian:12",
                 "alpine:3: (none) -> unknown digest", "agent claude: 1.0.0 -> (none)",
                 "agent codex: (none) -> 2.0.0"):  # fmt: skip
        assert part in said
    unknown = replace(lock, bases={"debian:12": ""})
    assert not lock.changes(unknown)


@pytest.mark.parametrize(
    "change",
    [{"form": 2}, {"artifact": "x"}, {"artifact": None}, {"key": {}}, {"bases": []}, {"bases": {"a": 1}},
     {"bases": {"a": "latest"}}, {"agents": None}],
    ids=str,
)  # fmt: skip
def test_a_lock_that_is_none_is_refused(tmp_path: Path, lock: Lock, change: dict[str, object]) -> None:
    path = tmp_path / "bottle.lock"
    lock.write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SpecError, match="cannot be read"):
        Lock.read(path)


def run(*argv: str) -> Result:
    return CliRunner().invoke(bottle, argv)


def error(done: Result) -> SpecError:
    assert isinstance(done.exception, SpecError)
    return done.exception


def test_a_run_that_differs_from_its_lock_is_refused_until_the_lock_is_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    image = tmp_path / "image.tar"
    plan = ("run", "--locked", "--plan", "--archive", "image.tar", "--", "true")
    assert "bottle lock writes it" in error(run(*plan)).next_step  # before anything is read or built
    image.write_bytes(saved(layer([file("app", b"1")])))
    assert run("lock", "--archive", "image.tar").stdout == f"{Path('bottle.lock')}\n"
    assert run(*plan).exit_code == 0
    again = run("lock", "--archive", "image.tar")
    assert (again.stdout, "nothing differs from bottle.lock" in again.stderr) == ("", True)
    before = Path("bottle.lock").read_bytes()

    image.write_bytes(saved(layer([file("app", b"2")])))
    refused = error(run(*plan))
    assert "config digest: sha256:" in refused.why
    assert "artifact: sha256:" in refused.why
    assert "differs" in error(run("lock", "--archive", "image.tar")).message
    assert Path("bottle.lock").read_bytes() == before
    updated = run("lock", "--update", "--archive", "image.tar")
    assert "config digest: sha256:" in updated.stdout
    assert run(*plan).exit_code == 0


def test_a_container_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("run", "--locked", "--backend", "docker", "--image", "x", "--", "true")
    assert done.exception is not None
    assert "--locked does not work with --backend docker" in str(done.exception)


def test_the_digest_of_an_image_is_the_one_that_its_engine_has_from_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [layer([file("app", b"1")])]
    config = next(data for name, data in saved_files(layers).items() if re.match(r"[0-9a-f]{64}", name))
    docker = FakeDocker(tmp_path / "docker")
    known = {
        "Id": digest(config),
        "Size": 1000,
        "Config": {},
        "RepoDigests": [f"aa@sha256:{'0' * 64}", f"app@sha256:{'a' * 64}"],
    }
    docker.install(tmp_path / "bin", known)
    docker.archive.write_bytes(saved(*layers))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    assert run("lock", "--image", "app:1", "--engine", "docker").exit_code == 0
    lock = Lock.read(tmp_path / "bottle.lock")
    assert lock is not None
    assert lock.bases == {"app:1": f"sha256:{'a' * 64}"}
    assert str(lock.key.config_digest) == digest(config)

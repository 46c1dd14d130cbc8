"""Finding an engine and bearing with one that misbehaves. The engines are small programs on PATH."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.support.fake_engines import Fake, engine, fails, says

from bot_bottle.engine.builder import choose_builder
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.errors import EngineError, UsageError

NO_DAEMON = "Cannot connect to the Docker daemon at unix:///run/docker.sock. Is the docker daemon running?"
NO_RIGHT = "permission denied while trying to connect to the Docker daemon socket at unix:///run/docker.sock"
PODMAN = '{"Client":{"APIVersion":"4.3.1","Version":"4.3.1","Os":"linux"}}'


def docker_answer(client: str = "20.10.24+dfsg1", server: str = "20.10.24", component: str = "Engine") -> str:
    return json.dumps(
        {
            "Client": {"Version": client, "ApiVersion": "1.41"},
            "Server": {"Version": server, "Components": [{"Name": component}]},
        }
    )


# --- finding it


def test_docker_comes_before_podman(fake: Fake) -> None:
    docker = fake("docker", says(docker_answer()))
    fake("podman", says(PODMAN))
    assert find_engine() == Engine("docker", docker, "20.10.24+dfsg1", "20.10.24", "buildkit")


def test_the_choice_is_the_argument_or_else_the_environment(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("docker", says(docker_answer()))
    podman = fake("podman", says(PODMAN))
    assert find_engine("podman") == Engine("podman", podman, "4.3.1", "4.3.1", "buildah")
    monkeypatch.setenv("BOT_BOTTLE_ENGINE", "podman")
    assert find_engine().name == "podman"
    assert find_engine("docker").name == "docker"
    monkeypatch.setenv("BOT_BOTTLE_ENGINE", "")
    assert find_engine().name == "docker"


def test_a_choice_that_is_no_engine_is_refused(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("docker", says(docker_answer()))
    monkeypatch.setenv("BOT_BOTTLE_ENGINE", "rkt")
    with pytest.raises(UsageError, match="rkt"):
        find_engine()


def test_no_engine_says_what_to_install(fake: Fake) -> None:
    with pytest.raises(EngineError, match="no docker, no podman") as caught:
        find_engine()
    assert "install" in caught.value.next_step
    assert "podman" in caught.value.next_step


def test_a_chosen_engine_that_is_not_there_is_not_replaced(fake: Fake) -> None:
    fake("docker", says(docker_answer()))
    with pytest.raises(EngineError, match="podman is not installed"):
        find_engine("podman")


@pytest.mark.parametrize("words", [NO_DAEMON, NO_RIGHT])
def test_podman_stands_in_for_a_docker_that_does_not_answer(fake: Fake, words: str) -> None:
    fake("docker", fails(words))
    fake("podman", says(PODMAN))
    assert find_engine().name == "podman"
    with pytest.raises(EngineError):
        find_engine("docker")


def test_a_daemon_that_does_not_answer_is_an_error_with_its_address(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    fake(
        "docker",
        says('{"Client":{"Version":"20.10.24","ApiVersion":"1.41"},"Server":null}') + "\n" + fails(NO_DAEMON),
    )
    with pytest.raises(EngineError, match="docker does not answer") as caught:
        find_engine()
    assert caught.value.why == NO_DAEMON
    assert "systemctl start docker" in caught.value.next_step
    monkeypatch.setenv("DOCKER_HOST", "tcp://far:1")
    with pytest.raises(EngineError) as caught:
        find_engine()
    assert "DOCKER_HOST=tcp://far:1" in caught.value.next_step


def test_a_podman_machine_that_does_not_run_is_an_error_with_a_next_step(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    fake("podman", fails("Error: Cannot connect to Podman. Please verify your connection", 125))
    with pytest.raises(EngineError, match="podman does not answer") as caught:
        find_engine()
    assert "podman machine start" in caught.value.next_step


def test_a_socket_of_another_user_is_an_error_with_a_next_step(fake: Fake) -> None:
    fake("docker", fails(NO_RIGHT))
    with pytest.raises(EngineError, match="cannot be used by this user") as caught:
        find_engine()
    assert caught.value.why == NO_RIGHT
    assert "usermod -aG docker" in caught.value.next_step


def test_when_both_fail_both_are_told(fake: Fake) -> None:
    fake("docker", fails(NO_DAEMON))
    fake("podman", fails("cannot clone: Operation not permitted", 125))
    with pytest.raises(EngineError) as caught:
        find_engine()
    assert NO_DAEMON in caught.value.why
    assert "Operation not permitted" in caught.value.why


@pytest.mark.parametrize("name", ["DOCKER_HOST", "DOCKER_CONTEXT"])
def test_no_other_engine_is_taken_for_the_docker_that_was_named(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fake("docker", fails(NO_DAEMON))
    fake("podman", says(PODMAN))
    monkeypatch.setenv(name, "far")
    with pytest.raises(EngineError, match="docker does not answer") as caught:
        find_engine()
    assert NO_DAEMON in caught.value.why
    assert f"{name}=far selects a docker" in caught.value.why
    assert f"{name}=far" in caught.value.next_step
    assert "--engine podman" in caught.value.next_step
    assert find_engine("podman").name == "podman"
    monkeypatch.setenv("BOT_BOTTLE_ENGINE", "podman")
    assert find_engine().name == "podman"


def test_podman_in_dockers_place_is_said(fake: Fake) -> None:
    fake("docker", fails(NO_DAEMON))
    fake("podman", says(PODMAN))
    said: list[str] = []
    find_engine(say=said.append)
    assert said == [f"docker does not answer: using podman ({NO_DAEMON})"]


def test_what_takes_longer_than_a_second_is_said(fake: Fake, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "asked")
    fake("podman", f"read line < {tmp_path}/asked; {says(PODMAN)}")
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        (tmp_path / "asked").write_text("go on\n")

    assert find_engine("podman", say=say).name == "podman"
    assert said == ["waiting for podman to answer"]


def test_an_engine_that_hangs_is_given_up(fake: Fake) -> None:
    fake("docker", "exec sleep 3600")  # longer than a test may take
    with pytest.raises(EngineError, match="docker does not answer") as caught:
        find_engine(timeout=0.2)
    assert "did not end within 0.2 s" in caught.value.why


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "garbage",
        "[]",
        "null",
        "{}",
        '{"Client": 1, "Server": []}',
        "[" * 200_000,
        '{"Client":{"Version":"1"}}',
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error(fake: Fake, answer: str) -> None:
    fake("docker", says(answer))
    with pytest.raises(EngineError):
        find_engine()


def test_a_program_that_cannot_run_is_an_error(fake: Fake) -> None:
    fake("docker", "").write_bytes(b"\x7fELF nonsense")
    with pytest.raises(EngineError) as caught:
        find_engine()
    assert "could not be started" in caught.value.why


def test_a_docker_that_is_podman_is_podman(fake: Fake) -> None:
    shim = fake("docker", f"echo Emulate Docker CLI using podman. >&2\n{says(PODMAN)}")
    assert find_engine() == Engine("podman", shim, "4.3.1", "4.3.1", "buildah")
    podman = fake("podman", "exit 1")
    assert find_engine().program == podman


@pytest.mark.parametrize(
    ("client", "server", "by_podman", "has_buildx", "wish", "builder"),
    [
        ("20.10.24+dfsg1", "20.10.24", False, False, None, "buildkit"),
        ("20.10.24+dfsg1", "18.09.1", False, False, None, "buildkit"),
        ("20.10.24+dfsg1", "18.06.3", False, False, None, "classic"),
        ("28.2.2", "20.10.24", False, False, None, "classic"),
        ("28.2.2", "28.2.2", False, True, None, "buildx"),
        ("28.2.2", "4.3.1", True, True, None, "classic"),
        ("28.2.2", "28.2.2", False, True, "", "buildx"),
        ("28.2.2", "28.2.2", False, True, "0", "classic"),
        ("20.10.24", "20.10.24", False, False, "false", "classic"),
        ("28.2.2", "28.2.2", False, False, "1", "buildx"),
        ("20.10.24", "18.06.3", False, False, "true", "buildkit"),
    ],
)
def test_the_builder_follows_from_the_client_and_its_settings(
    client: str, server: str, by_podman: bool, has_buildx: bool, wish: str | None, builder: str
) -> None:
    environ = {} if wish is None else {"DOCKER_BUILDKIT": wish}
    assert choose_builder(client, server, by_podman, has_buildx, environ) == builder


@pytest.mark.parametrize(
    ("plugin", "builder"),
    [
        ("exit 0", "buildx"),
        ("exit 1", "classic"),
        ("echo github.com/docker/buildx 0.29.1+ds1 0.29.1+ds1-4 && exit", "buildx"),
        ("echo github.com/docker/buildx v0.6.0 aabbcc && exit", "buildx"),
        ("echo github.com/docker/buildx v0.5.1-docker 11057da && exit", "classic"),  # has no --metadata-file
        ("echo github.com/docker/buildx v0.0.0+unknown && exit", "buildx"),
        ("echo github.com/docker/buildx master-1234567 && exit", "buildx"),
    ],
)
def test_a_new_client_is_asked_for_its_plugin(fake: Fake, plugin: str, builder: str) -> None:
    fake("docker", f'[ "$1" = buildx ] && {plugin}\n{says(docker_answer("28.2.2", "28.2.2"))}')
    assert find_engine().builder == builder


def test_what_is_not_needed_is_not_asked(fake: Fake, tmp_path: Path) -> None:
    fake("docker", f'echo "$*" >> {tmp_path}/calls\n{says(docker_answer("28.2.2", "28.2.2"))}')
    found = find_engine()
    asked = (tmp_path / "calls").read_text().splitlines()
    assert len(asked) == 1, asked
    for _ in range(2):
        found.info()
        assert found.builder == "buildx"
    assert len((tmp_path / "calls").read_text().splitlines()) == 3


def test_podmans_docker_service_has_no_buildkit(fake: Fake) -> None:
    fake("docker", says(docker_answer(server="4.3.1", component="Podman Engine")))
    found = find_engine()
    assert (found.name, found.builder, found.buildkit) == ("docker", "classic", False)


# --- what it says of itself and of images


@pytest.mark.parametrize(
    "answer", ["", "{", "[]", "[1]", "{}", "[{},{}]", '[{"Id": 5}]', '[{"Id":"sha256:x"}]', "[{}]"]
)
def test_an_inspection_that_makes_no_sense_is_an_error(fake: Fake, answer: str) -> None:
    with pytest.raises(EngineError):
        engine(fake("docker", says(answer))).image_id("a")


@pytest.mark.parametrize(("size", "known"), [("123", 123), ("-1", 0), ("null", 0), ('"9"', 0)])
def test_a_size_is_a_number_or_not_known(fake: Fake, size: str, known: int) -> None:
    assert engine(fake("docker", says(f'[{{"Size": {size}}}]'))).size("a") == known


def test_an_image_exists_or_not_or_the_engine_fails(fake: Fake) -> None:
    assert engine(fake("docker", says("[{}]"))).exists("a")
    assert not engine(fake("docker", fails("Error: No such image: a"))).exists("a")
    with pytest.raises(EngineError, match="does not answer"):
        engine(fake("docker", fails(NO_DAEMON))).exists("a")


def test_a_command_that_hangs_is_given_up(fake: Fake) -> None:
    hanging = Engine("docker", fake("docker", "exec sleep 60"), "1", "1", "classic", timeout=0.2)
    with pytest.raises(EngineError, match="docker does not answer"):
        hanging.image_id("a")

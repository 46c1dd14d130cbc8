"""A bottle from its spec to its exit status, in a container of an engine that is a program on PATH."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_docker import INFO, ISOLATED, Behaviour, FakeDocker

from bot_bottle.bottle import names, records
from bot_bottle.bottle.run import make_plan, run_bottle
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.engine.source import Source
from bot_bottle.errors import (
    BootError,
    BottleError,
    EngineError,
    SecretError,
    SpecError,
    WallsError,
)
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.pack.options import ConvertOptions
from bot_bottle.secrets.reference import parse

IMAGE = {"Id": f"sha256:{'ab' * 32}", "Config": {"Cmd": ["sh", "-c", "exit 5"], "Env": ["A=image"]}}


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """A docker that is the only engine on PATH."""
    made = FakeDocker(tmp_path / "docker")
    made.install(tmp_path / "bin", IMAGE)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("BOT_BOTTLE_ENGINE", "docker")
    return made


def spec(*command: str, **given: Any) -> BottleSpec:
    return BottleSpec(Source(image="crafted"), "blue", command, backend="docker", **given)


def run(wanted: BottleSpec) -> int:
    return run_bottle(wanted, ConvertOptions(), Progress())


def test_the_status_of_the_command_is_returned_and_recorded(docker: FakeDocker) -> None:
    assert run(spec("sh", "-c", "exit 3")) == 3
    record = records.newest("blue")
    assert (record.exit_status, record.error, record.place, record.engine) == (3, None, "container", "docker")
    assert record.image_id == IMAGE["Id"]
    assert (record.proof or {})["ipv4"] == {"outcome": "unreachable", "ok": True}


def test_without_a_command_the_image_s_own_runs(docker: FakeDocker) -> None:
    assert run(spec()) == 5


def test_an_image_without_a_command_needs_one(docker: FakeDocker, tmp_path: Path) -> None:
    docker.install(tmp_path / "bin", {**IMAGE, "Config": {}})
    with pytest.raises(SpecError, match="no default command"):
        run(spec())


def test_nothing_of_a_bottle_is_left(docker: FakeDocker) -> None:
    run(spec("true"))
    assert docker.containers == []
    assert not [path for path in paths.runs_dir().iterdir() if path.name != "names"]
    assert not names.is_running("blue")


def test_the_container_is_isolated_by_its_options(docker: FakeDocker) -> None:
    run(spec("true", memory_mib=512, cpus=2, user="1000", workdir="/work"))
    (create,) = [call for call in docker.calls if call[0] == "create"]
    for option in (
        "--network=none",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pids-limit=4096",
        "--memory=512m",
        "--memory-swap=512m",
        "--cpus=2",
        "--user=1000",
        "--workdir=/work",
        "--pull=never",
        "--label=bot-bottle.bottle=blue",
    ):
        assert option in create[: create.index(str(IMAGE["Id"]))], option


def test_a_secret_reaches_the_command_and_no_command_line(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "s3cret-value")
    script = f'printf %s "$KEY-$A-$B" > {tmp_path / "seen"}'
    secrets = tuple(parse(["id=KEY,env=FROM_HERE"]).values())
    assert run(spec("sh", "-c", script, env=(("B", "given"),), secrets=secrets)) == 0
    assert (tmp_path / "seen").read_text() == "s3cret-value--given"
    assert "s3cret-value" not in docker.calls_file.read_text()
    assert "s3cret-value" not in json.dumps(records.newest("blue").to_json())


def test_a_missing_secret_is_reported_before_an_engine_is_asked(docker: FakeDocker) -> None:
    with pytest.raises(SecretError):
        run(spec("true", secrets=tuple(parse(["id=KEY,env=NOT_SET_ANYWHERE"]).values())))
    assert docker.calls == []


def test_a_command_does_not_start_when_a_probe_gets_out(docker: FakeDocker, tmp_path: Path) -> None:
    docker.behave(Behaviour(found={**ISOLATED, "ipv4": "open"}))
    with pytest.raises(WallsError, match="not in force") as caught:
        run(spec("touch", str(tmp_path / "started")))
    assert "ipv4: open" in caught.value.why
    assert not (tmp_path / "started").exists()
    assert docker.containers == []
    record = records.newest("blue")
    assert record.exit_status == WallsError.exit_code
    assert record.error == caught.value.message


def test_a_probe_that_says_nothing_is_a_failed_one(docker: FakeDocker, tmp_path: Path) -> None:
    docker.behave(Behaviour(found={name: word for name, word in ISOLATED.items() if name != "routes"}))
    with pytest.raises(WallsError):
        run(spec("touch", str(tmp_path / "started")))
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "dropped",
    [
        {"Memory": 0},
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ({"NetworkMode": "bridge"}, {"Privileged": True})
        ),
    ],
)
def test_an_engine_that_drops_a_limit_is_refused(docker: FakeDocker, dropped: dict[str, Any]) -> None:
    docker.behave(Behaviour(host_config=dropped))
    with pytest.raises(WallsError, match=next(iter(dropped))):
        run(spec("true"))
    assert "start" not in docker.verbs()
    assert docker.containers == []


def test_an_engine_without_a_seccomp_filter_is_refused(docker: FakeDocker) -> None:
    docker.behave(Behaviour(info={**INFO, "SecurityOptions": []}))
    with pytest.raises(BootError, match="seccomp"):
        run(spec("true"))
    assert "create" not in docker.verbs()


def test_a_container_that_cannot_be_made_is_explained_in_the_engine_s_words(docker: FakeDocker) -> None:
    docker.behave(Behaviour(fails={"create": "the daemon is out of sorts"}))
    with pytest.raises(EngineError, match="could not create the container") as caught:
        run(spec("true"))
    assert caught.value.why == "the daemon is out of sorts"


def test_a_container_that_ends_before_its_command_is_an_error(docker: FakeDocker) -> None:
    docker.behave(Behaviour(ends_early=True))
    with pytest.raises(BottleError):
        run(spec("true"))
    assert docker.containers == []


def test_two_bottles_of_one_name_do_not_run_at_once(docker: FakeDocker) -> None:
    with names.lock_name("blue"), pytest.raises(SpecError, match="blue is running"):
        run(spec("true"))
    assert docker.calls == []


def test_a_plan_of_a_container_asks_no_engine(docker: FakeDocker) -> None:
    plan = make_plan(spec("true", env=(("A", "1"),)), ConvertOptions(), Progress())
    assert plan.described()["command"] == ["true"]
    assert plan.described()["env"] == ["A"]
    assert plan.described()["cpus"] == min(4, os.cpu_count() or 1)
    assert plan.conversion is None
    assert docker.calls == []

"""The command lines by which containers are made, run and removed, and what a failing engine leads to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.support.fake_engines import Fake

from bot_bottle.engine import containers, images
from bot_bottle.engine.containers import Containers, engine_record
from bot_bottle.host import rundir
from bot_bottle.host.process import CommandFailed

NO_DETACH = "--detach-keys=ctrl-@,ctrl-^,ctrl-@,ctrl-_,ctrl-@"


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Where `recording` writes each call: the arguments in one line, DOCKER_HOST first."""
    return tmp_path / "calls"


def recording(calls: Path, script: str = "") -> str:
    return f'echo "${{DOCKER_HOST}}|$*" >> {calls}\n{script}'


def called(calls: Path) -> list[str]:
    return [line.partition("|")[2] for line in calls.read_text().splitlines()]


def test_options_come_before_the_image_and_its_command_after_it(fake: Fake, calls: Path) -> None:
    ours = Containers(fake("docker", recording(calls, "echo 0123")))
    assert ours.create("image", ["a", "--b"], ["--name=x"]).text == "0123"
    ours.run("image", ["sh", "-c", "true"], ["--network=none"])
    assert ours.output_of("x", ["id"], ["--user=5"]).text == "0123"
    assert ours.copy("x", "/etc/passwd").text == "0123"
    assert ours.port("x", "5000/tcp", timeout=10) == "0123"
    ours.kill("x", "INT")
    assert called(calls) == [
        "create --name=x image a --b",
        "run --rm --network=none image sh -c true",
        "exec --user=5 x id",
        "cp x:/etc/passwd -",
        "port x 5000/tcp",
        "kill --signal=INT x",
    ]


def test_an_attached_client_takes_input_and_no_key_detaches_it(fake: Fake, calls: Path) -> None:
    ours = Containers(fake("docker", recording(calls, "exit 3")))
    with ours.start("x", terminal=False) as client:
        assert client.wait(20) == 3
    with ours.execute("x", ["id"], ["--user=5"], env=dict(os.environ), terminal=False) as client:
        assert client.wait(20) == 3
    assert called(calls) == [
        f"start --attach --interactive {NO_DETACH} x",
        f"exec --interactive {NO_DETACH} --user=5 x id",
    ]


def test_an_attached_client_may_be_told_to_print_no_warnings(fake: Fake, calls: Path) -> None:
    ours = Containers(fake("podman", recording(calls)), quiet=["--log-level=error"])
    with ours.start("x", terminal=False) as client:
        client.wait(20)
    ours.kill("x", "INT")
    assert called(calls)[0].startswith("--log-level=error start")
    assert called(calls)[1].startswith("kill")


def test_a_container_in_the_background_writes_to_a_file(fake: Fake, tmp_path: Path) -> None:
    program = fake("docker", "echo $*; echo words >&2")
    with (
        (tmp_path / "log").open("wb") as log,
        Containers(program).run_in_background("image", ["a"], ["--name=x"], log) as client,
    ):
        client.wait(20)
    assert (tmp_path / "log").read_text() == "run --rm --name=x image a\nwords\n"


def test_a_failure_is_raised_or_in_the_result(fake: Fake) -> None:
    ours = Containers(fake("docker", "echo no such container >&2; exit 1"))
    assert ours.create("image", [], []).code == 1
    assert ours.output_of("x", ["id"]).complaint == "no such container"
    ours.kill("x", "INT")
    for call in (lambda: ours.run("image", [], []), lambda: ours.inspect("x"), lambda: ours.remove("a=b")):
        with pytest.raises(CommandFailed, match="no such container"):
            call()


def test_an_inspected_container_is_the_one_of_the_list(fake: Fake) -> None:
    assert Containers(fake("docker", 'echo \'[{"Id": "abc"}]\'')).inspect("x") == {"Id": "abc"}


def test_containers_with_a_label_are_removed_until_there_are_none(fake: Fake, calls: Path) -> None:
    # the first removal fails for one of two, whose network the other had
    removed = 'test "$1" = rm && { test $# = 4 && exit 0; echo b; exit 1; }'
    listing = f'grep -q "rm --force" {calls} && echo a || echo "a b"'
    Containers(fake("docker", recording(calls, f"{removed}\n{listing}"))).remove("key=x")
    assert called(calls) == [
        "ps --all --quiet --filter=label=key=x",
        "rm --force --volumes a b",
        "ps --all --quiet --filter=label=key=x",
        "rm --force --volumes a",
    ]


def test_a_sweep_asks_the_engine_of_the_killed_command(
    fake: Fake, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake("docker", recording(calls, 'case "$1-$2" in ps-*|image-ls) echo a;; esac'))
    monkeypatch.setenv("DOCKER_HOST", "unix:///theirs")
    record = engine_record(program)
    monkeypatch.setenv("DOCKER_HOST", "unix:///ours")
    containers.sweep({"label": "key=x", **record})
    images.sweep({"label": "key=x", **record})
    assert calls.read_text().splitlines() == [
        "unix:///theirs|ps --all --quiet --filter=label=key=x",
        "unix:///theirs|rm --force --volumes a",
        "unix:///theirs|image ls --all --quiet --no-trunc --filter=label=key=x",
        "unix:///theirs|image rm --force a",
    ]


def test_a_container_is_recorded_with_the_engine_that_it_is_of(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake("docker", "exit 1")
    monkeypatch.setenv("DOCKER_HOST", "unix:///theirs")
    with rundir.run_dir() as run:
        Containers(program).record(run, "a-kind", "key=x")
        record = json.loads((run.path / "strays.jsonl").read_text())
    assert record == {
        "kind": "a-kind",
        "label": "key=x",
        "program": str(program),
        "variables": {"DOCKER_HOST": "unix:///theirs"},
    }

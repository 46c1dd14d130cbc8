"""`bottle doctor`: what is missing is named with a next step, and the exit status follows."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bottle import Bottle, Ended, end, wait_until
from tests.support.cache import share
from tests.support.engines import Docker, Podman


@pytest.fixture(scope="module")
def bottle(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Bottle:
    """Run `bottle` with a cache that lasts, in which smolvm is made ready once for all tests."""
    cache = tmp_path_factory.mktemp("doctor") / "cache"
    share(cache, "smolvm")
    return Bottle(cache, docker.variables)


NO_ENGINE = {"DOCKER_HOST": "unix:///nobody.sock", "BOT_BOTTLE_ENGINE": "docker"}  # builds no image
MARKS = {"good": "ok", "poor": "!!", "bad": "NO"}


def checks(done: Ended) -> dict[str, dict[str, Any]]:
    """The checks by name, after what holds for every answer."""
    told = json.loads(done.out)
    assert done.err == ""
    assert {check["mark"] for check in told["checks"]} <= set(MARKS)
    assert told["ok"] == all(check["mark"] != "bad" for check in told["checks"])
    assert done.code == (0 if told["ok"] else 113)
    assert all(check["next_step"] for check in told["checks"] if check["mark"] != "good")
    return {check["name"]: check for check in told["checks"]}


def test_doctor_finds_nothing_bad_on_this_machine(bottle: Bottle) -> None:
    found = checks(bottle("doctor", "--json"))
    assert list(found) == ["engine", "disk", "smolvm", "image", "kvm", "emulation", "memory", "cache"]
    assert found["engine"]["finding"].startswith("docker ")
    assert "1.32.2" in found["smolvm"]["finding"]


def test_doctors_text_says_what_its_json_says(bottle: Bottle, saved: Path) -> None:
    bottle("pack", "--archive", saved)
    found = checks(bottle("doctor", "--json"))
    done = bottle("doctor")
    assert re.findall(r"^\[(..)\] (\w+)", done.out, re.MULTILINE) == [
        (MARKS[check["mark"]], name) for name, check in found.items()
    ]
    assert "1 artifact, " in done.out
    assert done.out.endswith("\nbottle run works here.\n")


@pytest.mark.parametrize(
    ("args", "env", "name", "told"),
    [
        ([], {"PATH": "/nowhere"}, "engine", "no container engine"),
        (["--engine", "podman"], {"PATH": "/nowhere"}, "engine", "podman is not installed"),
        (["--engine", "docker"], {"DOCKER_HOST": "unix:///nobody.sock"}, "engine", "docker does not answer"),
        (["--accel", "nested"], {"PATH": "/nowhere"}, "emulation", "QEMU"),
        ([], NO_ENGINE | {"BOT_BOTTLE_SMOLVM": "/nowhere/smolvm"}, "smolvm", "/nowhere/smolvm"),
        ([], NO_ENGINE | {"BOT_BOTTLE_CACHE_DIR": "/etc/passwd"}, "disk", "cannot write to"),
        ([], NO_ENGINE | {"BOT_BOTTLE_CACHE_DIR": "/etc/passwd"}, "cache", "cannot read"),
    ],
)
def test_doctor_names_what_is_missing(
    bottle: Bottle, args: list[str], env: dict[str, str], name: str, told: str
) -> None:
    check = checks(bottle("doctor", "--json", *args, env=env))[name]
    assert check["mark"] == "bad"
    assert told in check["finding"]


def test_doctors_text_ends_with_what_does_not_work(bottle: Bottle) -> None:
    done = bottle("doctor", env={"PATH": "/nowhere"})
    assert done.code == 113
    assert "\nbottle run does not work here yet.\n" in done.out


def test_with_accel_kvm_doctor_needs_kvm_and_no_emulation(bottle: Bottle) -> None:
    found = checks(bottle("doctor", "--json", "--accel", "kvm"))
    assert found["kvm"]["mark"] in ("good", "bad")
    assert "not needed here" in found["emulation"]["finding"]


def test_another_smolvm_on_path_is_not_taken(bottle: Bottle, tmp_path: Path) -> None:
    (tmp_path / "smolvm").write_text("#!/bin/sh\necho 'smolvm, version 0.0.9'\n")
    (tmp_path / "smolvm").chmod(0o755)
    path = f"{tmp_path}:{bottle.env()['PATH']}"
    found = checks(bottle("doctor", "--json", env={"PATH": path}))["smolvm"]
    assert found["mark"] == "good"
    assert "package smolmachines" in found["finding"]


Trial = tuple[Bottle, str, Callable[..., bytes]]
LABELLED = ("image", "ls", "--all", "--quiet", "--filter=label=bot-bottle.trial")


@pytest.fixture(params=["docker", "podman"])
def trial(request: pytest.FixtureRequest, bottle: Bottle) -> Trial:
    """Run `bottle` with one engine, whose client the function is."""
    engine: Docker | Podman = request.getfixturevalue(request.param)
    client = engine.docker if isinstance(engine, Docker) else engine.podman
    changes = {**engine.variables, "BOT_BOTTLE_ENGINE": request.param}
    return Bottle(bottle.cache, {**bottle.changes, **changes}), request.param, client


def broken(bottle: Bottle, folder: Path, name: str, script: str) -> dict[str, str]:
    """Put an engine first on PATH that runs a script before it becomes the one that `bottle` would find."""
    path = bottle.env()["PATH"]
    real = shutil.which(name, path=path)
    (folder / name).write_text(f'#!/bin/sh\nreal={real}\n{script}\nexec "$real" "$@"\n')
    (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{path}"}


def test_doctor_builds_and_packs_an_image_and_leaves_nothing(trial: Trial) -> None:
    bottle, _, client = trial
    before = set(client("image", "ls", "--all", "--quiet").split())
    artifacts = bottle.artifacts
    check = checks(bottle("doctor", "--json"))["image"]
    assert check["mark"] == "good", check
    finding = r"built one of one file, packed it \(\S+ MB\) and removed it in \S+ s"
    assert re.fullmatch(finding, check["finding"])
    assert set(client("image", "ls", "--all", "--quiet").split()) <= before
    assert client("ps", "--all", "--quiet", "--filter=label=bot-bottle.trial") == b""
    assert bottle.artifacts == artifacts
    assert bottle.leftovers == []


_WORDS = "echo 'Error: the store is on fire' >&2; exit 1"
# where its storage is, is not found either: else nothing has to be exported
_HIDDEN = """sed -E 's#"(DockerRootDir|graphRoot|Address)": ?"[^"]*"#"\\1":"/nowhere"#g'"""


@pytest.mark.parametrize(
    ("step", "script"),
    [
        ("build", f"case $1 in build) {_WORDS} ;; esac"),
        ("pack", f'case $1 in save|push) {_WORDS} ;; info) "$real" "$@" | {_HIDDEN}; exit ;; esac'),
        ("remove", f'case "$1 $2" in "image rm") {_WORDS} ;; esac'),
    ],
)
def test_doctor_reports_a_failing_step_in_the_engines_words(
    trial: Trial, tmp_path: Path, step: str, script: str
) -> None:
    bottle, name, client = trial
    check = checks(bottle("doctor", "--json", env=broken(bottle, tmp_path, name, script)))["image"]
    assert check["mark"] == "bad"
    assert f"{name} could not {step} an image of one file" in check["finding"]
    assert "the store is on fire" in check["finding"]
    left = client(*LABELLED).decode().split()
    assert bool(left) == (step == "remove")
    if left:
        client("image", "rm", "--force", left[0])
    assert bottle.leftovers == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_a_doctor_that_is_ended_in_the_middle_leaves_no_image(
    trial: Trial, tmp_path: Path, signum: signal.Signals
) -> None:
    bottle, name, client = trial
    built = tmp_path / "built"
    script = f'case $1 in build) "$real" "$@"; touch {built}; exec sleep 100 ;; esac'
    process = bottle.start("doctor", env=broken(bottle, tmp_path, name, script))
    wait_until(lambda: built.exists() or process.poll() is not None)
    assert client(*LABELLED) != b""
    process.send_signal(signum)
    done = end(process)
    if signum == signal.SIGINT:
        assert done.code == 130, done
    else:
        assert bottle("prune").code == 0
    wait_until(lambda: not bottle.leftovers)
    assert client(*LABELLED) == b""

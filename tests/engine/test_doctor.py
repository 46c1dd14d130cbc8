"""`bottle doctor`: what is missing is named with a next step, and the exit status follows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.bottle import Bottle, Ended
from tests.support.engines import Docker


@pytest.fixture(scope="module")
def bottle(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Bottle:
    """Run `bottle` with a cache that lasts: smolvm is made ready once."""
    return Bottle(tmp_path_factory.mktemp("doctor") / "cache", docker.variables)


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


def test_all_is_well(bottle: Bottle) -> None:
    found = checks(bottle("doctor", "--json"))
    assert list(found) == ["engine", "disk", "smolvm", "kvm", "emulation", "memory", "cache"]
    assert found["engine"]["finding"].startswith("docker ")
    assert "1.32.2" in found["smolvm"]["finding"]


def test_a_person_is_told_the_same(bottle: Bottle, saved: Path) -> None:
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
        (["--accel", "emulated"], {"PATH": "/nowhere"}, "emulation", "QEMU"),
        ([], {"BOT_BOTTLE_SMOLVM": "/nowhere/smolvm"}, "smolvm", "/nowhere/smolvm"),
        ([], {"BOT_BOTTLE_CACHE_DIR": "/etc/passwd"}, "disk", "cannot write to"),
        ([], {"BOT_BOTTLE_CACHE_DIR": "/etc/passwd"}, "cache", "cannot read"),
    ],
)
def test_what_is_missing_is_named(
    bottle: Bottle, args: list[str], env: dict[str, str], name: str, told: str
) -> None:
    check = checks(bottle("doctor", "--json", *args, env=env))[name]
    assert check["mark"] == "bad"
    assert told in check["finding"]
    assert "\nbottle run does not work here yet.\n" in bottle("doctor", *args, env=env).out


def test_kvm_alone_has_to_be_good(bottle: Bottle) -> None:
    found = checks(bottle("doctor", "--json", "--accel", "kvm"))
    assert found["kvm"]["mark"] in ("good", "bad")
    assert "not needed here" in found["emulation"]["finding"]


def test_another_product_of_that_name_on_path_is_not_taken(bottle: Bottle, tmp_path: Path) -> None:
    (tmp_path / "smolvm").write_text("#!/bin/sh\necho 'smolvm, version 0.0.9'\n")
    (tmp_path / "smolvm").chmod(0o755)
    path = f"{tmp_path}:{bottle.env()['PATH']}"
    found = checks(bottle("doctor", "--json", env={"PATH": path}))["smolvm"]
    assert found["mark"] == "good"
    assert "package smolmachines" in found["finding"]

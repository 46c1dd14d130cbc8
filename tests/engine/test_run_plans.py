"""What `bottle run` plans with an engine at hand, and options that do not go together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.conftest import Context
from tests.support.bottle import Bottle


def test_a_plan_starts_nothing(bottle: Bottle, context: Context) -> None:
    folder = context("RUN false")  # would not build
    plan = json.loads(
        bottle("run", "--plan", "--json", "--backend=docker", "-e", "A=b", folder, "--", "make").out
    )
    assert (plan["backend"], plan["command"], plan["env"]) == ("docker", ["make"], ["A"])
    assert (plan["network"], plan["mounts"], plan["image_id"]) == ("none", [], None)


def test_a_plan_of_a_microvm_names_its_artifact(bottle: Bottle, context: Context) -> None:
    plan = json.loads(bottle("run", "--plan", "--json", context("USER agent", 'CMD ["/x"]')).out)
    assert Path(plan["artifact"]).is_file()
    assert plan["command"] == ["/x"]
    assert plan["backend"] == "smolmachines"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--packer=smolvm"], "--packer does not work with --backend docker"),
        (["--accel=kvm"], "--accel does not work with --backend docker"),
        (["--archive=x.tar"], "cannot run archives"),
        (["--json"], "--json needs --plan"),
    ],
)
def test_options_that_a_container_cannot_have_are_refused(bottle: Bottle, args: list[str], told: str) -> None:
    done = bottle("run", "--backend=docker", *args)
    assert done.code in (2, 101), done
    assert told in done.err

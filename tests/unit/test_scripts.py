"""`scripts/test`: what it hands on to pytest, what it runs again, and what it says of that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.documents import CHECKOUT

TIER = """
import pathlib
import pytest

def test_good(): pass
def test_other(): pass
@pytest.mark.root
def test_with_root(): pass
@pytest.mark.slow
def test_slow(): assert False
"""
FLAKY = """
import pathlib

def test_steady(): pass
def test_comes_right(): fail_until(2)
def test_never(): fail_until(LAST)

def fail_until(good):
    path = pathlib.Path(__file__).with_name(f"tries-{good}")
    tries = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(tries))
    assert tries >= good
"""


class Checkout:
    """A checkout with tests of its own, run by the real script and the real pytest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir()
        shutil.copy(CHECKOUT / "scripts" / "test", folder / "scripts" / "test")
        (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow: x\n  root: x\n")
        self.program(".venv/bin/python", f'exec {sys.executable} "$@"')
        for tier in ("unit", "engine", "vm"):
            self.tests(tier, TIER)

    def program(self, name: str, script: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def tests(self, tier: str, text: str) -> None:
        path = self.folder / "tests" / tier / f"test_{tier}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, *args: str, uid: int = 0, processes: int = 0) -> subprocess.CompletedProcess[str]:
        self.program("bin/id", f"echo {uid}")
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}  # it starts sooner
        # its own, or it removes what earlier runs of other tests left in the usual one, which takes long
        env["PYTEST_DEBUG_TEMPROOT"] = str(self.folder)
        env["TEST_PROCESSES"] = str(processes)
        env["PATH"] = f"{self.folder / 'bin'}:{env['PATH']}"
        command = [str(self.folder / "scripts" / "test"), *args]
        return subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_arguments_after_dashes_go_to_pytest(checkout: Checkout) -> None:
    done = checkout.run("unit", "--", "-v", "-k", "good")
    assert done.returncode == 0
    assert "test_unit.py::test_good PASSED" in done.stdout
    assert "1 passed, 3 deselected" in done.stdout


def test_paths_after_dashes_replace_the_folder_of_the_tier(checkout: Checkout) -> None:
    done = checkout.run("unit", "--", "tests/engine/test_engine.py::test_good")
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout


def test_arguments_go_to_every_tier_and_one_without_such_a_test_is_no_failure(checkout: Checkout) -> None:
    checkout.tests("engine", "def test_only_here(): pass")
    done = checkout.run("--", "-k", "only_here")
    assert (done.returncode, done.stdout.count("1 passed")) == (0, 1), done.stdout


def test_no_such_test_in_any_tier_is_a_failure(checkout: Checkout) -> None:
    assert checkout.run("unit", "engine", "--", "-k", "nowhere").returncode == 5


def test_a_failure_does_not_keep_the_next_tier_from_running(checkout: Checkout) -> None:
    checkout.tests("unit", "def test_bad(): assert False")
    done = checkout.run("unit", "engine", processes=2)
    assert done.returncode == 1
    assert done.stdout.count("created: 2/2 workers") == 2
    assert "1 failed" in done.stdout
    assert "3 passed" in done.stdout  # the one marked root too: this is root, by the `id` of the test


def test_slow_tests_run_instead_of_the_others(checkout: Checkout) -> None:
    done = checkout.run("--slow", "unit", "engine")
    assert (done.returncode, done.stdout.count("1 failed")) == (1, 2), done.stdout
    assert "passed" not in done.stdout


def test_an_unknown_tier_is_refused(checkout: Checkout) -> None:
    done = checkout.run("units")
    assert (done.returncode, done.stdout) == (
        2,
        "error: units is not a tier; the tiers are unit, engine and vm\n",
    )


def test_tests_marked_root_are_deselected_and_that_is_printed_for_others(checkout: Checkout) -> None:
    done = checkout.run("unit", uid=1000)
    assert "2 passed" in done.stdout
    assert done.stdout.splitlines()[-1] == "Not root: the tests marked root are deselected"


def test_what_failed_in_the_vm_tier_is_run_again_and_listed(checkout: Checkout) -> None:
    checkout.tests("vm", FLAKY.replace("LAST", "3"))
    done = checkout.run("vm")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-4:] == [
        "Run again in the vm tier:",
        "  try 2: tests/vm/test_vm.py::test_comes_right",
        "  try 2: tests/vm/test_vm.py::test_never",
        "  try 3: tests/vm/test_vm.py::test_never",
    ]


def test_what_failed_three_times_in_the_vm_tier_has_failed(checkout: Checkout) -> None:
    checkout.tests("vm", FLAKY.replace("LAST", "4"))
    done = checkout.run("vm")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "  try 3: tests/vm/test_vm.py::test_never"

"""`bottle doctor`: what each finding is worth, and what to do about it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bot_bottle.doctor import Check, examine
from bot_bottle.errors import AccelError, DoctorError
from bot_bottle.vm.accel import Accel
from bot_bottle.vm.capabilities import Kvm, KvmState
from bot_bottle.vm.emulated import host
from bot_bottle.vm.emulated.host import check_emulation

TOOLS = {
    "qemu-system-x86_64": 'echo "QEMU emulator version 9.1.2 (Debian)"',
    "passt": "exit 0",
    "busybox": "exit 0",
    "apt-cache": 'echo "  Depends: linux-image-6.1.0-9-amd64"',
}


def fake(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which everything that emulation needs is found."""
    for name, body in TOOLS.items():
        fake(tmp_path / "bin", name, body)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("BOT_BOTTLE_SMOLVM", raising=False)
    return tmp_path / "bin"


def checks(state: KvmState, accel: Accel) -> dict[str, Check]:
    kvm = Kvm(state, "the reason", "" if state == "good" else "do this")
    return {check.name: check for check in examine(kvm=kvm, accel=accel)}


@pytest.mark.usefixtures("shared_cache", "tools")
@pytest.mark.parametrize(
    ("state", "accel", "kvm", "emulation"),
    [
        ("good", "auto", "good", "not needed here"),
        ("good", "kvm", "good", "not needed here"),
        ("good", "direct", "good", "QEMU 9.1.2, which emulates microVMs"),
        ("good", "nested", "good", "QEMU 9.1.2, which emulates a host with KVM"),
        ("absent", "auto", "poor", "QEMU 9.1.2, which emulates microVMs"),
        ("denied", "auto", "poor", "QEMU 9.1.2, which emulates microVMs"),
        ("unusable", "auto", "poor", "QEMU 9.1.2, which emulates microVMs"),
        ("unusable", "nested", "poor", "QEMU 9.1.2, which emulates a host with KVM"),
        ("absent", "kvm", "bad", "not needed here"),
        ("denied", "kvm", "bad", "not needed here"),
        ("unusable", "kvm", "bad", "not needed here"),
    ],
)
def test_doctor_reports_kvm_and_what_is_used_without_it(
    state: KvmState, accel: Accel, kvm: str, emulation: str
) -> None:
    found = checks(state, accel)
    assert (found["kvm"].mark, found["kvm"].next_step) == (kvm, "" if state == "good" else "do this")
    assert (found["emulation"].mark, found["emulation"].finding) == ("good", emulation)


@pytest.mark.usefixtures("shared_cache")
def test_doctor_says_what_an_open_network_needs_without_kvm(tools: Path) -> None:
    (tools / "passt").unlink()
    found = checks("absent", "auto")["emulation"]
    assert found.mark == "good"
    assert found.finding.endswith(
        "; for --network open there, sudo apt-get install --no-install-recommends passt"
    )


@pytest.mark.parametrize(
    ("tool", "body", "message", "step"),
    [
        ("qemu-system-x86_64", None, "QEMU is needed", "apt-get install"),
        ("qemu-system-x86_64", "echo broken >&2; exit 1", "does not run", ""),
        ("busybox", None, "busybox is needed", "apt-get install busybox-static"),
        ("apt-cache", None, "kernel cannot be fetched", "apt-get update"),
        ("apt-cache", "exit 100", "kernel cannot be fetched", "apt-get update"),
        ("apt-cache", "exit 0", "kernel cannot be fetched", "apt-get update"),
    ],
)
def test_a_program_that_emulation_lacks_is_named(
    tools: Path, tool: str, body: str | None, message: str, step: str
) -> None:
    (tools / tool).unlink()
    if body is not None:
        fake(tools, tool, body)
    with pytest.raises(AccelError, match=message) as caught:
        check_emulation()
    assert step in caught.value.next_step


def test_a_kernel_that_is_there_needs_no_apt(tools: Path) -> None:
    (tools / "apt-cache").unlink()
    folder = host._folder()
    folder.mkdir(parents=True)
    for name in ("vmlinux", "initramfs.gz"):
        (folder / name).touch()
    assert check_emulation() == "9.1.2"


@pytest.mark.usefixtures("shared_cache")
def test_without_kvm_a_missing_qemu_is_bad(tools: Path) -> None:
    (tools / "qemu-system-x86_64").unlink()
    assert checks("absent", "auto")["emulation"].mark == "bad"
    assert checks("good", "auto")["emulation"].mark == "good"


@pytest.mark.parametrize(
    ("module", "check"), [("qemu_program", "find_qemu"), ("emulated.host", "check_emulation")]
)
def test_another_architecture_without_kvm_is_named(module: str, check: str) -> None:
    program = f"from bot_bottle.vm.{module} import {check}; {check}()"
    argv = ["setarch", "i686", sys.executable, "-c", program]  # changes what uname(2) says
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "AccelError: without KVM there are no microVMs on i686" in done.stderr


def test_a_smolvm_of_the_users_own_is_good_on_kvm_alone(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tools, "mine", '[ "$1" = --version ] && echo "smolvm 9.0.1"; exit 0')
    monkeypatch.setenv("BOT_BOTTLE_SMOLVM", str(tools / "mine"))
    natively, emulated = checks("good", "auto")["smolvm"], checks("absent", "nested")["smolvm"]
    assert (natively.mark, natively.finding) == ("good", "9.0.1 from BOT_BOTTLE_SMOLVM")
    assert emulated.mark == "bad"
    assert "unset BOT_BOTTLE_SMOLVM" in emulated.next_step


@pytest.mark.usefixtures("tools")
def test_a_cache_that_cannot_be_written_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BOT_BOTTLE_CACHE_DIR", str(tmp_path / "file"))
    found = checks("good", "auto")["disk"]
    assert found.mark == "bad"
    assert "BOT_BOTTLE_CACHE_DIR" in found.next_step


@pytest.mark.usefixtures("shared_cache", "tools")
def test_the_status_says_that_it_would_not_run() -> None:
    argv = [sys.executable, "-m", "bot_bottle", "doctor"]
    plain = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    as_json = subprocess.run([*argv, "--json"], capture_output=True, text=True, timeout=60)
    assert plain.returncode == as_json.returncode == DoctorError.exit_code
    told = json.loads(as_json.stdout)
    assert told["ok"] is False
    engine = told["checks"][0]
    assert (engine["name"], engine["mark"]) == ("engine", "bad")
    assert engine["next_step"]
    assert f"next: {engine['next_step']}" in plain.stdout
    assert plain.stdout.rstrip().endswith("bottle run does not work here yet.")


AS_ANOTHER = """
import importlib.metadata, os, sys
from bot_bottle.cli import main
from bot_bottle.cli.commands import doctor, cache
from bot_bottle import doctor as checks
import bot_bottle.vm.emulated.host, bot_bottle.bottle.gc
os.setgid(65534)
os.setuid(65534)
if sys.argv[1] == "checks":
    for check in checks.examine(accel="nested"):
        print(check.name, check.mark, check.finding)
else:
    sys.exit(main.run(sys.argv[1:]))
"""


@pytest.mark.parametrize("args", [["checks"], ["cache", "ls"]])
def test_a_cache_of_another_user_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    """As after sudo: the folders are root's alone."""
    cache = tmp_path / "cache"
    (cache / "emulated").mkdir(parents=True)
    cache.chmod(0o700)
    monkeypatch.setenv("BOT_BOTTLE_CACHE_DIR", str(cache))
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER, *args], capture_output=True, text=True, timeout=120
    )
    words = done.stdout + done.stderr
    assert "Traceback" not in words
    assert "bug" not in words
    assert "ermission denied" in words
    assert done.returncode == (0 if args == ["checks"] else 107)

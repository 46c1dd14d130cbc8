"""Finding the real smolvm, and the command lines it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_bottle.errors import SmolvmError
from bot_bottle.host.progress import Progress
from bot_bottle.vm import guest_rootfs
from bot_bottle.vm.smolvm import (
    Smolvm,
    carrier_variable,
    create_argv,
    exec_argv,
    find_smolvm,
    state_environment,
)


def program(folder: Path, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "smolvm"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def found_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("BOT_BOTTLE_SMOLVM", raising=False)


@pytest.mark.usefixtures("shared_cache")
def test_the_package_brings_the_real_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found_on_path(tmp_path, monkeypatch)
    smolvm = find_smolvm(Progress())
    assert smolvm.origin == "package smolmachines"
    assert tuple(map(int, smolvm.version.split("."))) >= (1, 32, 0)
    templates = list(smolvm.program.parent.glob("*.ext4"))
    assert [path.stat().st_size >> 30 for path in sorted(templates)] == [10, 20]
    assert all(path.stat().st_blocks * 512 < 16 << 20 for path in templates)
    again = find_smolvm(Progress())
    assert again == smolvm


@pytest.mark.usefixtures("shared_cache")
def test_a_namesake_on_path_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path / "bin", 'echo "SmolVM 0.0.9"')
    found_on_path(tmp_path / "bin", monkeypatch)
    assert find_smolvm(Progress()).origin == "package smolmachines"


@pytest.mark.usefixtures("shared_cache")
def test_a_namesake_by_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", 'case "$1" in --version) echo "smolvm, version 0.1";; *) exit 2;; esac')
    monkeypatch.setenv("BOT_BOTTLE_SMOLVM", str(path))
    with pytest.raises(SmolvmError, match="another product") as caught:
        find_smolvm(Progress())
    assert "smolvm, version 0.1" in caught.value.why


@pytest.mark.usefixtures("shared_cache")
def test_an_old_one_by_name_is_refused_and_on_path_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = program(tmp_path / "bin", '[ "$1" = --version ] && echo "smolvm 1.9.2"; exit 0')
    found_on_path(tmp_path / "bin", monkeypatch)
    assert find_smolvm(Progress()).origin == "package smolmachines"
    monkeypatch.setenv("BOT_BOTTLE_SMOLVM", str(path))
    with pytest.raises(SmolvmError, match=r"1\.9\.2"):
        find_smolvm(Progress())


@pytest.mark.usefixtures("shared_cache")
def test_a_new_one_on_path_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", '[ "$1" = --version ] && echo "smolvm 9.0.1"; exit 0')
    found_on_path(tmp_path / "bin", monkeypatch)
    assert (find_smolvm(Progress()).program, find_smolvm(Progress()).version) == (path, "9.0.1")


def test_a_missing_smolvm_is_an_error_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found_on_path(tmp_path, monkeypatch)
    monkeypatch.setattr(guest_rootfs, "PACKAGE", "no-such-package")
    with pytest.raises(SmolvmError, match="not installed") as caught:
        find_smolvm(Progress())
    assert caught.value.next_step.startswith("pip install")


@pytest.mark.usefixtures("shared_cache")
def test_the_users_smolvm_settings_do_not_leak_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found_on_path(tmp_path, monkeypatch)
    monkeypatch.setenv("SMOLVM_EGRESS_FLOOR", "off")
    monkeypatch.setenv("SMOLVM_SECCOMP", "off")
    environment = find_smolvm(Progress()).environment({"MORE": "1"})
    assert "SMOLVM_EGRESS_FLOOR" not in environment
    assert (environment["SMOLVM_SECCOMP"], environment["SMOLVM_LANDLOCK"]) == ("enforce", "enforce")
    assert environment["MORE"] == "1"


@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize(
    ("words", "takes"),
    [
        (None, True),
        ("Container image to pack (alpine:latest, python:3.11-slim)", False),
        ("Container image to pack: a registry reference, a `docker save` archive", True),
    ],
)
def test_whether_it_packs_archives_is_told_by_its_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str | None, takes: bool
) -> None:
    if words:
        answer = (
            f'case "$*" in --version) echo "smolvm 9.0.1";; "pack create --help") echo \'{words}\';; esac'
        )
        program(tmp_path / "bin", answer)
    found_on_path(tmp_path / "bin", monkeypatch)
    assert find_smolvm(Progress()).packs_archives() is takes


def test_a_machine_has_no_network_and_does_not_run_the_command_twice() -> None:
    argv = create_argv("/a.smolmachine", "bottle-x", cpus=2, memory_mib=512, labels={"owner": "1.2"})
    assert not {arg for arg in argv if arg.startswith(("--net", "--allow", "--dns", "-p"))}
    assert argv[argv.index("--") + 1] == "/proc/self/exe"
    assert argv[argv.index("--label") + 1] == "owner=1.2"


def test_values_of_variables_are_never_arguments() -> None:
    argv = exec_argv(
        "m", ("sh", "-c", "x"), tty=False, user="1000", workdir="/w", env_names=["PATH", "TOKEN"]
    )
    assert f"TOKEN={carrier_variable('TOKEN')}" in argv
    assert argv[-3:] == ("sh", "-c", "x")
    assert argv[argv.index("--error-format") + 1] == "json"
    assert "-t" in exec_argv("m", ("sh",), tty=True, user="", workdir="", env_names=())


@pytest.mark.parametrize(("length", "kept"), [(30, True), (61, True), (62, False), (150, False)])
def test_what_smolvm_keeps_is_ours_where_its_sockets_fit(length: int, kept: bool) -> None:
    folder = Path("/" + "x" * (length - 1))
    expected = {"XDG_CACHE_HOME": str(folder), "XDG_DATA_HOME": str(folder)} if kept else {}
    assert state_environment(folder) == expected
    assert Smolvm(Path("smolvm"), "1.32.2", "here", state_environment(folder)).is_ours is kept
    assert len(f"{folder}/smolvm/vms/5aaa1866897fd0c8/port-forward.sock") <= 107 or not kept

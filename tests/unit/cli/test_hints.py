"""A next step is one for the command that was typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bot_bottle.bottle.names import lock_name
from bot_bottle.cli.commands import exec as exec_command
from bot_bottle.cli.main import bottle


def told(*args: str) -> str:
    return str(CliRunner().invoke(bottle, args).exception)


@pytest.mark.parametrize(
    ("args", "command", "options"),
    [
        (["blue", "ls"], ("ls",), {}),
        (["blue", "ls", "-u", "0", "--", "x"], ("ls", "-u", "0", "--", "x"), {}),
        (["blue", "--", "ls", "-l"], ("ls", "-l"), {}),
        (["-u", "0", "blue", "git", "log", "--", "file"], ("git", "log", "--", "file"), {"user": "0"}),
        (["blue", "-u", "0", "--", "ps"], ("ps",), {"user": "0"}),
        (["-it", "-e", "A=1", "blue", "sh", "-c", "exit 3"], ("sh", "-c", "exit 3"), {"env": ("A=1",)}),
        (["blue"], (), {}),
        (["blue", "--"], (), {}),
        (["--", "blue", "ls"], ("ls",), {}),
    ],
)
def test_exec_takes_its_command_as_docker_does(
    args: list[str], command: tuple[str, ...], options: dict[str, object]
) -> None:
    context = exec_command.command.make_context("exec", args)
    assert context.obj == command
    assert context.params == {"name": "blue", "env": (), "user": "", "workdir": "", **options}


def test_a_command_without_dashes_is_told_in_words_of_its_own() -> None:
    assert "bottle run PATH -- CMD" in told("run", ".", "ls")
    assert "bottle fan N PATH -- CMD" in told("fan", "2", ".", "ls")


@pytest.mark.parametrize("text", ["512", "4096b", "1023k"])
def test_memory_without_a_unit_is_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    message = told("run", "--image", "x", "-m", text)
    assert f"{text} is " in message
    assert "too little memory" in message
    assert "add a unit, for example 512m or 4g" in message


def test_rm_of_a_running_bottle_names_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("BOT_BOTTLE_STATE_DIR", str(state))
    (state / "bottles/blue/clone").mkdir(parents=True)
    with lock_name("blue"):
        removed = told("rm", "blue")
    assert "blue is running" in removed
    assert removed.endswith("Next: bottle stop blue first")


def test_the_traceback_of_a_bug_is_to_be_had_with_every_command(tmp_path: Path) -> None:
    """A bug is made with a fault in the interpreter's own start-up, so every command has it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import bot_bottle.bottle.manage as manage\n"
        "def broken(*args, **named):\n    raise RuntimeError('a bug')\n"
        "manage.list_bottles = broken\n"
    )
    program = [sys.executable, "-m", "bot_bottle"]
    for options, traceback in (([], False), (["-v"], True)):
        done = subprocess.run(
            [*program, *options, "ls"],
            env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 100
        assert "bottle -v" in done.stderr
        assert ("Traceback" in done.stderr) == traceback

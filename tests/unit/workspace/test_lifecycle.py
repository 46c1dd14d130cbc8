"""Scripts of lifecycle commands, run by the shells of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bot_bottle.errors import SpecError
from bot_bottle.workspace.lifecycle import Command, before_command, exports, failed_command, script

# those of images, as far as this machine has them; /bin/sh it always has
OTHERS = [("/bin/busybox", "sh"), ("/bin/bash", "--posix")]
SHELLS = [("/bin/sh",), *(shell for shell in OTHERS if Path(shell[0]).exists())]
Ran = subprocess.CompletedProcess[str]


@pytest.fixture(params=SHELLS, ids=lambda shell: Path(shell[0]).name)
def shell(request: pytest.FixtureRequest) -> tuple[str, ...]:
    argv: tuple[str, ...] = request.param
    return argv


def ran(shell: tuple[str, ...], text: str, *args: str, input: str = "", cwd: Path | None = None) -> Ran:
    argv = [*shell, "-c", text, *args]
    return subprocess.run(argv, input=input, capture_output=True, text=True, timeout=60, cwd=cwd)


def test_they_run_one_after_the_other(shell: tuple[str, ...]) -> None:
    commands: dict[str, Command] = {
        "onCreateCommand": "echo 'a  b'; X=1",
        "updateContentCommand": ("printf", "%s|", "$HOME", "it's", "two\nlines"),
        "postCreateCommand": "echo end${X}",
    }
    done = ran(shell, script(commands))
    assert (done.returncode, done.stdout) == (0, "a  b\n$HOME|it's|two\nlines|end\n")


def test_a_failure_is_named_and_ends_them(shell: tuple[str, ...]) -> None:
    done = ran(shell, script({"onCreateCommand": "exit 3", "postCreateCommand": "echo not this"}))
    assert (done.returncode, done.stdout) == (3, "")
    assert failed_command(done.stderr) == ("onCreateCommand", "3")
    done = ran(shell, script({"postCreateCommand": ("no-such-program",)}))
    assert done.returncode == 127
    assert failed_command(done.stderr) == ("postCreateCommand", "127")


def test_those_of_an_object_run_at_the_same_time(shell: tuple[str, ...], tmp_path: Path) -> None:
    """Each waits for the other: one after the other they would never end."""
    subprocess.run(["mkfifo", "one", "two"], cwd=tmp_path, check=True)
    both = {"a b": "echo hi >one; cat two", "c": "cat one >/dev/null; echo ho >two"}
    text = script({"postCreateCommand": both})
    done = ran(shell, text, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ho\n")


def test_one_of_them_that_fails_is_named(shell: tuple[str, ...]) -> None:
    done = ran(shell, script({"postCreateCommand": {"it's": "true", "b c": "exit 5"}}))
    assert done.returncode == 5
    assert failed_command(done.stderr) == ("postCreateCommand.b c", "5")


def test_what_runs_before_a_command_leaves_its_streams_and_arguments(shell: tuple[str, ...]) -> None:
    _, _, text, name = before_command({"postStartCommand": {"a": "cat; echo started", "b": ("true",)}})
    done = ran(shell, text, name, "sh", "-c", 'cat; echo "$0" "$@"', "a  b", "", "c", input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "in\na  b  c\n", "started\n")
    done = ran(shell, before_command({"postStartCommand": "exit 4"})[2], "sh", "echo", "not this")
    assert (done.returncode, done.stdout) == (4, "")
    assert failed_command(done.stderr) == ("postStartCommand", "4")
    assert before_command({}) == ()


def test_variables_are_as_they_were_given(shell: tuple[str, ...], tmp_path: Path) -> None:
    value = "it's $HOME\n\n"
    (tmp_path / "secret").write_text(value)
    text = exports({"A": value}, {"B": str(tmp_path / "secret")}) + 'sh -c \'printf "%s|%s|" "$A" "$B"\''
    assert ran(shell, text).stdout == f"{value}|{value}|"
    with pytest.raises(SpecError, match=r"a\.b"):
        exports({"a.b": ""}, {})

"""Questions on the terminal of a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pexpect
import pytest

ASKS = """
import os, sys, time
from bot_bottle.host.terminal import ask_line, open_own
handle = open_own()
until = time.monotonic() + float(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
os.close(0)
print("said", repr(ask_line(handle, "sure? ", lambda: time.monotonic() < until)), flush=True)
"""


@contextmanager
def asked(seconds: float = 60.0) -> Iterator[pexpect.spawn[Any]]:
    """Run a process that asks on its terminal for so long; it begins after a line."""
    child = pexpect.spawn(sys.executable, ["-c", ASKS, str(seconds)], encoding="utf-8", timeout=30)
    try:
        child.expect_exact("ready")
        yield child
    finally:
        child.close(force=True)


@pytest.mark.parametrize(("typed", "line"), [("y\r", "'y'"), (" Always \r", "'always'"), ("\r", "''")])
def test_the_line_that_is_typed_is_the_answer(typed: str, line: str) -> None:
    with asked() as child:
        child.send("\r")
        child.expect_exact("sure? ")
        child.send(typed)
        child.expect_exact(f"said {line}")


def test_what_was_typed_before_is_no_answer() -> None:
    with asked() as child:
        child.send("\ry\ry\r")
        child.expect_exact("sure? ")
        child.send("n\r")
        child.expect_exact("said 'n'")


def test_the_end_of_input_is_an_empty_answer() -> None:
    with asked() as child:
        child.send("\r")
        child.expect_exact("sure? ")
        child.sendeof()
        child.expect_exact("said ''")


def test_a_question_that_ends_has_no_answer() -> None:
    with asked(0.0) as child:
        child.send("\r")
        child.expect_exact("sure? ")
        child.expect_exact("said None")


def test_a_process_in_the_background_is_not_stopped_by_asking() -> None:
    script = f'{sys.executable} -c "$1" 60 </dev/null & wait; echo over'
    child = pexpect.spawn("bash", ["-mc", script, "bash", ASKS], encoding="utf-8", timeout=30)
    try:
        child.expect_exact("said None")
        child.expect_exact("over")
    finally:
        child.close(force=True)


def test_without_a_terminal_there_is_none_to_open() -> None:
    code = "from bot_bottle.host.terminal import open_own; print(open_own())"
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, start_new_session=True, timeout=60)
    assert (done.stdout, done.stderr) == ("None\n", "")


@pytest.mark.parametrize(("ends", "undone"), [("0", False), ("3", False), ("137", True), ("raise", True)])
def test_what_a_killed_program_left_on_is_undone(ends: str, undone: bool) -> None:
    script = (
        "import sys\nfrom bot_bottle.host.terminal import modes_undone\n"
        "with modes_undone(active=True) as status:\n"
        "    status.append(int(sys.argv[1]))\n"
    )
    env: Any = {"TERM": "xterm"}
    child = pexpect.spawn(sys.executable, ["-c", script, ends], timeout=30, env=env, encoding="latin-1")
    child.expect(pexpect.EOF)
    assert ("\x1b[<99u" in str(child.before)) is undone

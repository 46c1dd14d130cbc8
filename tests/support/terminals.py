"""What a person does at a terminal."""

from __future__ import annotations

from typing import Any

import pexpect


def interrupt(child: pexpect.spawn[Any]) -> None:
    """Press Ctrl-C until the shell inside answers: it loses one that comes while it starts a command."""
    for _ in range(5):
        child.sendcontrol("c")
        child.send("echo still $((40 + 2))\r")
        if child.expect(["still 42", pexpect.TIMEOUT], timeout=10) == 0:
            return
    raise AssertionError(child.before)

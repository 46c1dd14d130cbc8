"""The variables of a bottle in a microVM, for commands of other processes."""

from __future__ import annotations

import socket

import pytest

from bot_bottle.backend.microvm.variables import read_variables, variables_served
from bot_bottle.errors import SpecError
from bot_bottle.host import paths
from bot_bottle.host.unix_sockets import bind


def test_variables_are_read_from_a_bottle_that_runs_and_not_from_a_killed_one() -> None:
    folders = [paths.runs_dir() / f"run-{name}" for name in "abc"]
    for folder in folders:
        folder.mkdir(parents=True)
    for folder in (folders[0], folders[2]):  # what a killed bottle of the same name left
        with socket.socket(socket.AF_UNIX) as left:
            bind(left, folder, "variables-blue.sock")
    env = {"COLOUR": "blue", "LINES": "one\ntwo", "LONG": "x" * 300_000}
    with variables_served("blue", env, folders[1]):
        for _ in range(2):
            assert read_variables("blue") == env
        with pytest.raises(SpecError, match="not running"):
            read_variables("red")
    with pytest.raises(SpecError, match="not running"):
        read_variables("blue")
    assert not [path for path in folders[1].iterdir() if not path.is_socket()]

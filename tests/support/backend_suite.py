"""What every backend has to do alike: a bottle's streams, statuses, user and variables.

Each backend's tests have a class that is a Suite, and a fixture `attach` that runs a command in a bottle made
from BOTTLE_DOCKERFILE.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Ended:
    """How an attached command ended."""

    code: int
    out: bytes
    err: bytes


Attach = Callable[..., Ended]


class Suite:
    """The tests."""

    def test_the_images_own_command_runs_once_with_its_user_and_variables(self, attach: Attach) -> None:
        assert attach().out.decode().splitlines() == ["ran", "from cmd"]
        shown = attach("sh", "-c", 'id -u; id -g; pwd; echo "$GREETING|$QUOTE|${EMPTY-unset}|$PATH|$HOME"')
        seen = 'two words|it"s||/usr/bin:/bin|/home/agent'
        assert shown.out.decode().splitlines() == ["1000", "1000", "/home/agent", seen]

    def test_options_go_over_the_image(self, attach: Attach) -> None:
        env = {"GREETING": "other 'words' é=\n2nd", "MORE": "1"}
        done = attach(
            "sh", "-c", 'id -u; pwd; printf "%s|%s" "$GREETING" "$MORE"', env=env, user="0", workdir="/t"
        )
        assert done.out.decode() == "0\n/t\nother 'words' é=\n2nd|1"

    def test_large_and_odd_variables_arrive_as_they_are(self, attach: Attach) -> None:
        env = {
            "LARGE": "x" * ((127 << 10) - 10),
            "LINES": "# one\n\ntwo\r\nthree=3\n",
            "ODD": "  \"'`$(id) $HOME\\n \x01\x1b[31m\x7f é語🙂 ",
        }
        script = 'for each in "$LARGE" "$LINES" "$ODD"; do printf %s "$each" | sha256sum; done'
        shown = attach("sh", "-c", script, env=env).out.decode().split()[::2]
        assert shown == [hashlib.sha256(value.encode()).hexdigest() for value in env.values()]

    @pytest.mark.parametrize(
        ("script", "status"),
        [
            ("exit 7", 7),
            ("kill -9 $$", 137),
            ("exit 255", 255),
            *(pytest.param(f"exit {status}", status, marks=pytest.mark.slow) for status in (0, 1)),
        ],
    )
    def test_the_status_is_the_commands_own(self, attach: Attach, script: str, status: int) -> None:
        assert attach("sh", "-c", script).code == status

    def test_a_command_that_is_not_there_or_cannot_run(self, attach: Attach) -> None:
        missing = attach("no-such-command")
        assert missing.code == 127
        assert b"no-such-command" in missing.err
        assert attach("/etc").code == 126

    def test_input_arrives_whole_and_the_streams_stay_apart(self, attach: Attach) -> None:
        data = os.urandom(3_000_001)
        done = attach("sh", "-c", "sha256sum; echo of-error >&2", stdin=data)
        assert done.out.split()[0].decode() == hashlib.sha256(data).hexdigest()
        assert done.err == b"of-error\n"

    def test_input_that_is_not_read_keeps_nobody_waiting(self, attach: Attach) -> None:
        assert attach("sh", "-c", "exit 3", stdin=bytes(5_000_000)).code == 3

    def test_twenty_megabytes_come_out_unharmed(self, attach: Attach) -> None:
        done = attach(
            "sh", "-c", "head -c 20000000 /dev/urandom > /tmp/r; sha256sum < /tmp/r >&2; cat /tmp/r"
        )
        assert len(done.out) == 20_000_000
        assert hashlib.sha256(done.out).hexdigest() == done.err.split()[0].decode()

"""A command that runs for longer than it may gets SIGTERM, and is ended if it does not end."""

from __future__ import annotations

import signal

import pytest

from bot_bottle.backend import base
from bot_bottle.errors import Interrupted, TimeLimitError


class Command:
    """A command that ends some questions after it got SIGTERM, or never."""

    def __init__(self, lasts: int | None) -> None:
        self.lasts = lasts
        self.got: list[int] = []
        self.ended = False

    def wait(self, timeout: float | None = None) -> int | None:
        if self.got and self.lasts is not None:
            self.lasts -= 1
        return 0 if self.lasts is not None and self.lasts < 0 else None

    def end(self) -> None:
        self.ended = True

    def is_ended_without_a_signal(self, signum: int) -> None:
        self.end()
        raise Interrupted(signum)


def test_a_command_in_time_has_its_own_status() -> None:
    command = Command(lasts=-1)
    assert base.wait(command, [], command.got.append, command.end, 10) == 0
    assert command.got == []


def test_a_late_command_may_end_in_order() -> None:
    command = Command(lasts=3)
    with pytest.raises(TimeLimitError, match="longer than 0s"):
        base.wait(command, [], command.got.append, command.end, 0)
    assert (command.got, command.ended) == ([signal.SIGTERM], False)


def test_a_late_command_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_GRACE", 0)
    command = Command(lasts=None)
    with pytest.raises(TimeLimitError):
        base.wait(command, [], command.got.append, command.end, 0)
    assert (command.got, command.ended) == ([signal.SIGTERM], True)


def test_one_that_cannot_be_signalled_is_late_and_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_GRACE", 0)
    command = Command(lasts=None)
    with pytest.raises(TimeLimitError):
        base.wait(command, [], command.is_ended_without_a_signal, command.end, 0)
    assert command.ended

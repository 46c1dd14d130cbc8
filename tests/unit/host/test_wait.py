"""Waiting until something is so."""

from __future__ import annotations

from itertools import count

from bot_bottle.host.wait import wait_until


def test_the_first_true_value_ends_the_wait() -> None:
    calls = count()
    assert wait_until(lambda: next(calls) // 3, 60, pause=0) == 1
    assert next(calls) == 4


def test_the_last_value_is_returned_when_time_is_up() -> None:
    calls = count()
    assert wait_until(lambda: next(calls) and "", 0) == 0
    assert next(calls) == 1

"""Waiting for something that sends no notification."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout: float, *, pause: float = 0.01) -> T:
    """Call `predicate` every `pause` seconds until it returns a true value, and return its last value.

    It is called at least once, and a last time after `timeout` seconds. What it raises ends the wait.
    """
    deadline = time.monotonic() + timeout
    while True:
        over = time.monotonic() >= deadline
        if (value := predicate()) or over:
            return value
        time.sleep(pause)

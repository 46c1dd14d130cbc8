"""Threads that work while a block lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TICK = 0.2  # seconds


@contextmanager
def working_beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a function in a thread while the block lasts, and wait for it at the end.

    It is given an event that is set then.
    """
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def calling_when(happened: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """Call a function once as soon as something has happened, if that is before the block ends."""

    def watch(over: threading.Event) -> None:
        while not over.wait(_TICK):
            if happened():
                act()
                return

    with working_beside(watch):
        yield

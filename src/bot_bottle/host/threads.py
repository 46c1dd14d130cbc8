"""Threads that work while a block lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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

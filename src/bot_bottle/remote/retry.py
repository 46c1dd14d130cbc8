"""Registries that are busy or out of order for a moment: they are asked again, after the time that they say.

Sources: RFC 6585, 4 (429); RFC 9110, 15.6 (5xx) and 10.2.3 (Retry-After).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

BUSY = (429, 500, 502, 503, 504)

_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before each new try, where the registry states none


class Retry:
    """How long a session waits for its registry: `seconds` in all. `on_wait` is called before each pause."""

    def __init__(self, seconds: float = 120.0, on_wait: Callable[[str], None] = lambda _: None) -> None:
        self.seconds = seconds
        self._on_wait = on_wait

    def pause(self, why: str, tries: int, stated: str = "") -> bool:
        """Wait before something is tried again that failed `tries` times; return False if it is not to be.

        `stated` is the header Retry-After. What would take longer than is left is not waited for.
        """
        if tries > len(_PAUSES):
            return False
        asked = _stated_seconds(stated)
        seconds = _PAUSES[tries - 1] if asked is None else asked
        if seconds > self.seconds:
            return False
        self._on_wait(f"{why}; it is asked again in {seconds:g} s")
        self.seconds -= seconds
        time.sleep(seconds)
        return True


def _stated_seconds(text: str) -> float | None:
    """Return what a header Retry-After asks for: seconds, or a date. None where it has neither."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())

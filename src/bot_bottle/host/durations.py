"""Durations as people write them: `90s`, `10m`, `2h`, `1h30m`."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.IGNORECASE)


def parse_duration(text: str) -> int | None:
    """Return the seconds of a duration, at least one; None for anything else."""
    found = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(each or 0) for each in found.groups()) if found else (0, 0, 0)
    return hours * 3600 + minutes * 60 + seconds or None


def human_duration(seconds: int) -> str:
    """Return a duration in the form that `parse_duration` takes: `1h30m`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"

"""How times are told to a person."""

from __future__ import annotations


def ago(seconds: float) -> str:
    """Give how long ago something was, as `3 hours ago`."""
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"

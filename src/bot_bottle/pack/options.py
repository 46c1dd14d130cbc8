"""What the native packer can be told, and what of that decides an artifact's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from bot_bottle.errors import UsageError


@dataclass(frozen=True, slots=True)
class PackOptions:
    """What the native packer can be told. All but the last two decide the artifact's bytes.

    `name` is the image's name as `smolvm pack run --info` shows it; without one it is made from the image id.
    `cpus` and `mem` (MiB) are defaults of a machine made from the artifact; the values here are smolvm's own.
    `created` is a time after RFC 3339. `foreign` allows an image of another architecture than this machine's.
    """

    name: str = ""
    cpus: int = 4
    mem: int = 8192
    created: str = ""
    foreign: bool = False
    threads: int | None = None

    def key_parts(self) -> tuple[tuple[str, str], ...]:
        """Give what decides the bytes and is not the default, as sorted pairs for a cache key."""
        usual = PackOptions()
        names = ("cpus", "created", "mem", "name")
        return tuple(
            (name, str(getattr(self, name))) for name in names if getattr(self, name) != getattr(usual, name)
        )


def source_date(environment: Mapping[str, str]) -> str:
    """Give the time that SOURCE_DATE_EPOCH names, after RFC 3339, or nothing. Raises UsageError."""
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return ""
    try:
        return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"SOURCE_DATE_EPOCH is not a time: {text[:40]!r}",
            next_step="set it to seconds since 1970, or unset it",
        ) from error

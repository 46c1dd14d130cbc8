"""Which platforms of an image run on a machine, and which of those runs best.

The order is that of docker and containerd: the highest variant that the processor supports, then those below
it. A platform without a variant is the base of its architecture.

Sources: OCI image-spec v1.1, image-index.md ("Platform Variants"); x86-64 psABI, "Micro-Architecture Levels".
"""

from __future__ import annotations

import re
from collections.abc import Set
from functools import cache
from pathlib import Path

from bot_bottle.image.spec import Platform

_BASE = {"amd64": (1,), "arm64": (8,), "arm": (7,)}  # the variant of a platform that states none
_VARIANT = re.compile(r"v(\d{1,3})(?:\.(\d{1,3}))?\Z", re.ASCII)

# The flags, as Linux names them, that each level of x86-64 adds to the one below. The fourth level is left
# out: an emulated processor has no AVX-512, and a bottle may run on one.
_LEVELS = (
    frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
    frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}),
)

_Level = tuple[int, ...]


def preference(offered: Platform, wanted: Platform) -> _Level | None:
    """Return how well an image of platform `offered` runs on `wanted`: more is better, None is not at all.

    A wanted platform without a variant means the best that this machine's processor runs.
    """
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return None
    level = _level(offered)
    if level is None:  # an architecture or a variant of unknown order
        return () if offered.variant == wanted.variant or not wanted.variant else None
    most = _level(wanted) if wanted.variant else _highest(wanted.architecture)
    return level if most is not None and level <= most else None


def suits(offered: Platform, wanted: Platform) -> bool:
    """Return whether an image for one platform runs where `wanted` is requested."""
    return preference(offered, wanted) is not None


def amd64_level(flags: Set[str]) -> int:
    """Return the level of x86-64, 1 to 3, that a processor with these flags has."""
    level = 1
    for needed in _LEVELS:
        if not needed <= flags:
            break
        level += 1
    return level


def _level(platform: Platform) -> _Level | None:
    base = _BASE.get(platform.architecture)
    if base is None or not platform.variant:
        return base
    found = _VARIANT.match(platform.variant)
    return tuple(int(part) for part in found.groups(default="0") if part != "0") if found else None


@cache
def _highest(architecture: str) -> _Level:
    if architecture == "amd64" == Platform.of_this_machine().architecture:
        return (amd64_level(_flags()),)
    return _BASE[architecture]


def _flags() -> frozenset[str]:
    """Return the processor's flags; none where Linux does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(found.split())

"""Which image of an archive a user means: by a name as docker writes it, or by a digest or its beginning.

Source: distribution/reference (normalize.go), for the parts of a name that docker omits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bot_bottle.image.spec import Digest

_HEX = re.compile(r"(?:sha256:|sha512:)?([0-9a-f]{12,128})\Z")
_LEFT_OUT = ("docker.io/library/", "docker.io/", "localhost/")


def means(wanted: str, names: Iterable[str], digests: Iterable[Digest]) -> bool:
    """Return whether `wanted` is one of these names or digests of an image."""
    found = _HEX.match(wanted)
    if found and any(
        digest.hex.startswith(found[1]) and wanted in (found[1], digest.text[: len(wanted)])
        for digest in digests
    ):
        return True
    return any(wanted == name or _normal(wanted) == _normal(name) for name in names)


def _normal(name: str) -> str:
    prefix = next((each for each in _LEFT_OUT if name.startswith(each)), "")
    name = name.removeprefix(prefix)
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"

"""What a build says of the image that it has made."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bot_bottle.errors import ImageError
from bot_bottle.image.spec import Digest

_LIMIT = 16 << 20  # bytes of JSON; a result has some kB


class BuildResult(NamedTuple):
    """The files that a build writes: its image's id, and with buildx all of its digests as JSON."""

    iidfile: Path
    metadata: Path

    def digests(self) -> tuple[list[str], Digest | None]:
        """Return the digests of the image, first the one that every image store knows.

        The second is of its config, where the build states which one that is.

        buildx's metadata file has the digest of its result: of a manifest or an index, or where docker has no
        other, of the config. The id file has that of the config, in some versions of buildx the other.
        """
        metadata: Any = {}
        with suppress(OSError, ValueError, RecursionError):
            metadata = json.loads(self.metadata.read_bytes()[:_LIMIT])
        metadata = metadata if isinstance(metadata, dict) else {}
        found = [metadata.get("containerimage.digest"), metadata.get("containerimage.config.digest")]
        config: Digest | None = None
        with suppress(ImageError):
            config = Digest(found[1] or "")
        with suppress(OSError, ValueError):
            found.insert(1, self.iidfile.read_text(encoding="ascii").strip())
        return list(dict.fromkeys(each for each in found if isinstance(each, str) and each)), config

"""The newest signed receipt that was seen at each reference: a tag that goes back to an older one is noticed.

Who can write to a registry can move a tag to any artifact that a trusted key has ever signed. When each was
pushed is signed too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from bot_bottle.errors import ImageError, UntrustedError
from bot_bottle.host import paths
from bot_bottle.host.files import read_regular
from bot_bottle.host.records import store_record
from bot_bottle.image.spec import Digest
from bot_bottle.remote.receipt import Receipt, is_time
from bot_bottle.remote.reference import Reference

_LIMIT = 1 << 12  # bytes of a record


def require_latest(reference: Reference, signed: Receipt, *, allow_older: bool = False) -> None:
    """Check that a tag's artifact was not pushed before the one that was seen last, and record it.

    With `allow_older` it is only recorded. A digest names the same artifact for ever. Raises UntrustedError.
    """
    if reference.digest is not None:
        return
    path = paths.pulled_dir() / f"{hashlib.sha256(str(reference).encode()).hexdigest()}.json"
    if not allow_older and (last := _read(path)) is not None:
        pushed, digest = last
        if digest != signed.digest and signed.pushed < pushed:
            raise UntrustedError(
                f"{reference} has gone back to an older artifact",
                why=f"now it is {signed.digest}, pushed on {signed.pushed}\n"
                f"this machine has seen {digest}, pushed on {pushed}",
                next_step="ask who pushes it; if it is meant, add --allow-older",
            )
        if signed.pushed <= pushed:
            return
    document = {"reference": str(reference), "digest": str(signed.digest), "pushed": signed.pushed}
    store_record(path, document, UntrustedError, f"cannot record that {reference} was pulled")


def _read(path: Path) -> tuple[str, Digest] | None:
    """Return when the artifact that was seen last was pushed, and its digest. Raises UntrustedError."""
    try:
        document = json.loads(read_regular(path, _LIMIT)[0])
        pushed, digest = document["pushed"], Digest(document["digest"])
        if is_time(pushed):
            return pushed, digest
        raise ValueError("it has no time")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, ImageError) as error:
        raise UntrustedError(
            f"cannot read what was pulled before: {path}",
            why=str(error),
            next_step="remove it, or add --allow-older",
        ) from error

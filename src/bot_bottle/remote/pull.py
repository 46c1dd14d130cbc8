"""Artifacts pulled into the cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bot_bottle.cache.cache import Cache
from bot_bottle.cache.entry import Entry, list_path
from bot_bottle.cache.key import Key
from bot_bottle.errors import Interrupted
from bot_bottle.host.progress import Progress, human_bytes
from bot_bottle.image.spec import Digest, Platform
from bot_bottle.remote.artifact import Found, find, pulled, read_parts
from bot_bottle.remote.download import Pace
from bot_bottle.remote.latest import require_latest
from bot_bottle.remote.reference import Reference
from bot_bottle.remote.retry import Retry
from bot_bottle.remote.session import Session
from bot_bottle.smolmachine.format import VERSION as FORMAT_VERSION

_PACKER = "pulled"  # of the key of what nobody trusted has said the key of


def pull(
    reference: Reference,
    trusted: Path | None,
    cache: Cache,
    progress: Progress,
    *,
    allow_older: bool = False,
    pushed_as: str = "",
) -> tuple[Entry, Found]:
    """Pull an artifact into the cache, unless it is there; return its entry, and what was found of it.

    It gets the key that a trusted signer says. Others get a key that no build has: who pushed it could
    otherwise decide what the next `bottle run` of any image boots. A signed one that was pushed before what
    this user has seen at the tag is refused, unless `allow_older`, and so is one that was pushed to another
    name than that of the reference, or `pushed_as`.

    Raises RegistryError, ArtifactError, UntrustedError, CacheError, DiskFullError.
    """
    session = Session(reference, retry=Retry(on_wait=progress.note))
    name = "" if reference.digest else reference.name
    found = find(session, trusted, name=pushed_as or name)
    if found.signer and found.receipt is not None:
        require_latest(reference, found.receipt, allow_older=allow_older)
    key = _own_key(found)
    if found.signer and found.receipt is not None and found.receipt.key is not None:
        key = found.receipt.key
        there = cache.find(key)
        if there is not None and there.digest != found.blob.digest:
            progress.note("the cache has other bytes for the same key, which stay in use")
            key = _own_key(found)
    if (entry := cache.find(key)) is not None:
        return entry, found
    with cache.locked(key, source=str(reference), on_wait=progress.note) as slot:
        if slot.entry is not None:
            return slot.entry, found
        return slot.publish(receive(session, found, slot.path, progress)), found


def receive(
    session: Session, found: Found, out: Path, progress: Progress, pace: Pace | None = None
) -> Digest:
    """Write the artifact that was found to the new file `out`; return its digest. Raises as `pull` does."""
    size, listed = found.blob.size, read_parts(session, found)
    waiting = partial(progress.note, "waiting for another bot-bottle that pulls the same artifact")
    try:
        with (
            progress.stage("pull", size) as stage,
            pulled(session, found, listed, pace=pace, on_bytes=stage.advance, on_wait=waiting) as (
                path,
                moved,
            ),
        ):
            path.replace(out)
            if listed:
                list_path(out).write_bytes(listed)
            here = f"{human_bytes(moved.copied)} of {human_bytes(size)} were here"
            stage.conclude(f"{human_bytes(moved.sent)} received{f', {here}' if moved.copied else ''}")
    except Interrupted:
        progress.note("what came stays for the next pull")
        raise
    return found.blob.digest


def _own_key(found: Found) -> Key:
    return Key(found.blob.digest, str(Platform.of_this_machine()), _PACKER, "", FORMAT_VERSION, 0)

"""Files made from an artifact, beside it in the cache: made once, trusted while they are as written.

Each file `<stem><suffix>` has a record `<stem><suffix>-sum` (JSON): its size, inode, time of change and
CRC-32, and from which artifact it was made. Both are removed with the artifact.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from bot_bottle.cache.entry import DERIVED_SUFFIXES, sum_path
from bot_bottle.cache.prune import remove_derived
from bot_bottle.cache.scratch import disk_full_explained, scratch_folder, sync
from bot_bottle.host.files import open_unbuffered, read_regular, replace_file
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.system_errors import folder_error
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.smolmachine.crc import crc_of
from bot_bottle.structs import replace

_RECORD_LIMIT = 4096  # bytes


class _Sum(Struct, frozen=True):
    """What is recorded of a file. `version` is that of its maker, `source` the artifact's CRC-32."""

    version: int
    source: int
    size: int
    crc: int
    inode: int
    ctime_ns: int


def derived_file(
    artifact: Path,
    suffix: str,
    make: Callable[[Path], None],
    on_wait: Callable[[str], None],
    *,
    version: int = 1,
    on_damage: Callable[[str], None] | None = None,
) -> Path:
    """Return the file with this suffix, one of DERIVED_SUFFIXES, made by `make` where it is missing.

    `make` writes a new file and raises for an artifact that is damaged; a file of another `version` is made
    again. The caller holds the artifact (Entry.hold). `on_wait` is called if another process makes the file,
    `on_damage` (default: `on_wait`) if a damaged one was there. Raises CacheError, DiskFullError, and what
    `make` raises.
    """
    path = artifact.with_suffix(suffix)
    folder = artifact.parent
    source = artifact_format.read(artifact).footer.checksum
    waiting = f"waiting for another bot-bottle that makes {path.name}"
    try:
        if _is_trusted(path, _read_sum(path), version, source):
            return path
        with exclusive_lock(artifact.with_suffix(".lock"), lambda: on_wait(waiting)):
            known = _read_sum(path)
            if _is_trusted(path, known, version, source):
                return path
            with scratch_folder(folder, path.stem) as scratch, disk_full_explained("the root image", folder):
                if os.path.lexists(path):
                    why = _fault(path, known)
                    if not why and known and (known.version, known.source) == (version, source):
                        _write_sum(path, known, scratch)  # it was copied, or touched
                        return path
                    if why:
                        (on_damage or on_wait)(f"{path.name} is damaged and will be made again: {why}")
                remove_derived(artifact)
                made = scratch / path.name
                make(made)
                _publish(made, path, version, source)
        return path
    except OSError as error:
        raise folder_error(f"cannot use the artifact cache in {folder}", folder, error) from error


def damage(artifact: Path, on_bytes: Callable[[int], None]) -> str:
    """Read the files made from an artifact; return what is wrong with the first bad one, "" if all are sound.

    A damaged one is removed, so that it is made again. `on_bytes` is called with the bytes read. Raises
    OSError.
    """
    for suffix in DERIVED_SUFFIXES:
        path = artifact.with_suffix(suffix)
        if not os.path.lexists(path):
            continue
        on_bytes(path.lstat().st_blocks * 512)
        if why := _fault(path, _read_sum(path)):
            remove_derived(artifact)
            return f"{path.name} is damaged ({why}); it was removed"
    return ""


def _is_trusted(path: Path, known: _Sum | None, version: int, source: int) -> bool:
    """Return whether a file is as it was written, by its size, inode and time of change."""
    if known is None or (known.version, known.source) != (version, source):
        return False
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return False
    seen = facts.st_size, facts.st_ino, facts.st_ctime_ns
    return stat.S_ISREG(facts.st_mode) and seen == (known.size, known.inode, known.ctime_ns)


def _fault(path: Path, known: _Sum | None) -> str:
    """Return what is wrong with a file, read as a whole; "" if it is sound."""
    if known is None:
        return "it has no record"
    try:
        file = open_unbuffered(path)
    except OSError as error:
        return error.strerror or str(error)
    with file:
        if (size := os.fstat(file.fileno()).st_size) != known.size:
            return f"it has {size} bytes and should have {known.size}"
        sound = crc_of(file.fileno(), known.size) == known.crc
        return "" if sound else "its checksum is not the recorded one"


def _publish(made: Path, path: Path, version: int, source: int) -> None:
    made.chmod(0o600)
    sync(made)
    size = made.stat().st_size
    with made.open("rb") as file:
        crc = crc_of(file.fileno(), size)
    made.replace(path)
    _write_sum(path, _Sum(version, source, size, crc, 0, 0), made.parent)
    sync(path.parent)


def _write_sum(path: Path, known: _Sum, scratch: Path) -> None:
    """Write the record of a file with its inode and time of change as they are now."""
    facts = path.stat()
    record = json.dumps(asdict(replace(known, inode=facts.st_ino, ctime_ns=facts.st_ctime_ns)))
    replace_file(sum_path(path), record.encode(), scratch / "record")


def _read_sum(path: Path) -> _Sum | None:
    try:
        document = json.loads(read_regular(sum_path(path), _RECORD_LIMIT)[0])
        found = _Sum(**document)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return found if all(type(value) is int for value in asdict(found).values()) else None

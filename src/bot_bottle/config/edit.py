"""Adds entries to `egress.allow` of a bottle.toml, and leaves the rest of it as its author wrote it."""

from __future__ import annotations

import errno
import os
import stat
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.errors import SpecError
from bot_bottle.host.files import open_folder, open_regular
from bot_bottle.host.signals import defer_signals

_PARTIAL = ".bottle.toml.partial"
_LARGEST = 1 << 20  # bytes
_MARK = "\ufeff"  # some editors begin a file with it


class Snapshot(Struct, frozen=True):
    """A bottle.toml as it was at some time; `data` is None where there was none."""

    path: Path
    data: bytes | None


def take_snapshot(path: Path) -> Snapshot:
    """Read a bottle.toml, if there is one. Raises SpecError if it is a link, or no file."""
    try:
        with open_folder(path.parent.resolve()) as folder:
            return Snapshot(path, _read(path.name, folder))
    except OSError as error:
        raise _failed(path, error) from error


def allow(before: Snapshot, entries: Sequence[str]) -> None:
    """Add entries to `egress.allow`, and make the file if there was none.

    It is written whole or not at all. Raises SpecError if the file is no longer what it was `before`, or
    cannot be written.
    """
    path = before.path
    data = _added(before, entries)
    try:
        with open_folder(path.parent.resolve()) as folder, defer_signals():
            _replace(before, data, folder)
    except OSError as error:
        raise _failed(path, error) from error


def _read(name: str, folder: int) -> bytes | None:
    try:
        with open_regular(name, folder) as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    if len(data) > _LARGEST:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def _added(before: Snapshot, entries: Sequence[str]) -> bytes:
    """Return the file with the entries. Raises SpecError where they cannot be added."""
    import tomlkit  # only here: a file is seldom written
    from tomlkit.exceptions import TOMLKitError

    text = (before.data or b"").decode("utf-8")
    mark = _MARK if text.startswith(_MARK) else ""
    try:
        document: Any = tomlkit.parse(text.removeprefix(_MARK))
        if "egress" not in document:
            document = tomlkit.parse(_with_blank_line(text.removeprefix(_MARK)))
            document["egress"] = tomlkit.table()
        egress = document["egress"]
        if egress.get("allow") is None:
            egress["allow"] = tomlkit.array().multiline(multiline=True)
        for entry in entries:
            egress["allow"].append(entry)
        made = tomlkit.dumps(document)
        wanted = _expected(text.removeprefix(_MARK), entries)
        if tomllib.loads(made) != wanted:
            raise ValueError("it has a form in which they cannot be added")
    except (TOMLKitError, ValueError, TypeError, AttributeError) as error:
        raise SpecError(
            f"cannot add entries to {before.path}",
            why=str(error),
            next_step="add them to allow in its table [egress]",
        ) from error
    return (mark + made).encode()


def _with_blank_line(text: str) -> str:
    """Return a text that ends with an empty line, before which a new table would stand."""
    end = "\r\n" if "\r\n" in text else "\n"
    text += "" if not text or text.endswith("\n") else end
    return text + ("" if not text or text.endswith(end * 2) else end)


def _expected(text: str, entries: Sequence[str]) -> dict[str, Any]:
    document = tomllib.loads(text)
    egress = document.setdefault("egress", {})
    egress["allow"] = [*egress.get("allow", ()), *entries]
    return document


def _replace(before: Snapshot, data: bytes, folder: int) -> None:
    """Write the file beside, and rename it. Raises OSError, and SpecError if it has changed meanwhile."""
    name, flags = before.path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        os.unlink(_PARTIAL, dir_fd=folder)  # what a killed command left
    descriptor = os.open(_PARTIAL, flags, 0o666, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if before.data is not None:
                _copy_owner(os.stat(name, dir_fd=folder, follow_symlinks=False), descriptor)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if _read(name, folder) != before.data:
            raise SpecError(
                f"{before.path} has changed meanwhile",
                why="it is not what it was when the bottle started",
                next_step="look at it, and add the entries to allow in its table [egress]",
            )
        os.rename(_PARTIAL, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(_PARTIAL, dir_fd=folder)
        raise


def _copy_owner(status: os.stat_result, descriptor: int) -> None:
    """Set the mode of a file to that of another, and its owner where we may."""
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        with suppress(PermissionError):
            os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o777)


def _failed(path: Path, error: OSError) -> SpecError:
    why = error.strerror or str(error)
    if error.errno == errno.ELOOP:
        why = "it is a symbolic link"
    return SpecError(f"cannot write {path}", why=why, next_step="add the entries to it yourself")

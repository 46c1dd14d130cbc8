"""The objects and references of a git folder that an agent owned, taken without running git on it.

git would follow its links, alternates and settings, and trust its indexes. Here only three kinds of files are
read, as plain bytes: packs, loose objects, and references. Packs are indexed anew by git in a folder of ours,
loose objects are checked against their names, and of references only their values are taken.

The agent may work meanwhile, so the order matters: git writes objects before what refers to them, and packs
before it removes what they hold. References are read before objects, and the loose before the packed.
Sources: gitrepository-layout(5), gitformat-loose (header `TYPE SIZE\\0`), git-pack-refs(1),
git-check-ref-format(1).
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from bot_bottle.errors import WorkspaceError
from bot_bottle.host import files
from bot_bottle.host.text import printable
from bot_bottle.workspace.git import Git

_PACK = re.compile(r"pack-[0-9a-f]{40,64}\.pack")
_FAN = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{38}|[0-9a-f]{62}")
_VALUE = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_PACKED_LINE = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) (refs/\S+)")
_LOCK = ".lock"  # ends the name of what git is about to write, and of no reference

_MOST_REFERENCES = 10_000
_MOST_LOOKS = 100  # for packs, so that an agent that makes packs without end does not block us
_DEEPEST = 32  # folders of references in folders of references
_LARGEST_OBJECT = 513 << 20  # bytes of a loose object; git packs a file of more than 512 MiB at once
_LARGEST_LIST = 16 << 20  # bytes of packed-refs
_CHUNK = 1 << 20


class References(Struct, frozen=True):
    """What a git folder's references say. `head` is the name of the branch checked out, or a commit."""

    head: str
    values: dict[str, str]

    @property
    def head_commit(self) -> str:
        """The commit checked out, "" if there is none."""
        return self.values.get(self.head, "") if self.head.startswith("refs/") else self.head


def take(work: Path, git: Git, object_format: str, skip: Collection[str]) -> References:
    """Copy the objects of `work`/.git into the store of `git` and return the references.

    `skip` names packs whose objects are stored elsewhere. Raises WorkspaceError when `.git` is not a folder
    or contains something that is not a git object. Whether all objects that a reference needs are there is
    not checked.
    """
    try:
        with files.open_folder(work) as top, files.open_folder(".git", top) as folder:
            references = _references(folder)
            with files.open_folder("objects", folder) as objects:
                _take_objects(objects, git, object_format, skip)
            return references
    except OSError as error:
        raise WorkspaceError(
            "the bottle's repository cannot be read",
            why=printable(f"{work}/.git: {error.strerror or error}"),
            next_step=f"see what is left in {work}, with care: an agent wrote it",
        ) from error


def _take_objects(objects: int, git: Git, object_format: str, skip: Collection[str]) -> None:
    for name in files.list_names(objects):
        if _FAN.fullmatch(name):
            with suppress(FileNotFoundError), files.open_folder(name, objects) as fan:
                for rest in files.list_names(fan):
                    if _REST.fullmatch(rest):
                        with suppress(FileNotFoundError), files.open_regular(rest, fan) as source:
                            _take_loose(source, git.folder / "objects" / name, name + rest, object_format)
    if "pack" in files.list_names(objects):
        with files.open_folder("pack", objects) as packs:
            _take_packs(packs, git, set(skip))


def _take_packs(folder: int, git: Git, known: set[str]) -> None:
    """Copy every new pack; repeat while there are new ones, which may replace removed packs."""
    for _ in range(_MOST_LOOKS):
        new = [name for name in files.list_names(folder) if _PACK.fullmatch(name) and name not in known]
        for name in new:
            with suppress(FileNotFoundError), files.open_regular(name, folder) as source:
                # garbage ends it at the first byte that is not an object, wherever the file's end may be
                git.run("index-pack", "--stdin", input=source)
        if not new:
            return
        known.update(new)


def _take_loose(source: BinaryIO, folder: Path, name: str, object_format: str) -> None:
    """Copy one object while it is unpacked and hashed. Raises WorkspaceError if its name is another."""
    folder.mkdir(exist_ok=True)
    target = folder / name[2:]
    hashed, unpacker, size = hashlib.new(object_format), zlib.decompressobj(), 0
    try:
        with target.open("wb") as copy:
            while (data := source.read(_CHUNK)) and not unpacker.eof:
                copy.write(data)
                while data and size <= _LARGEST_OBJECT:
                    plain = unpacker.decompress(data, _CHUNK)
                    hashed.update(plain)
                    size += len(plain)
                    data = unpacker.unconsumed_tail
                if size > _LARGEST_OBJECT:
                    break
            hashed.update(unpacker.flush())
        whole = unpacker.eof and not unpacker.unused_data and hashed.hexdigest() == name
    except zlib.error:
        whole = False
    if not whole:
        target.unlink()
        raise WorkspaceError(
            f"the bottle's repository has an object whose content does not match its name: {name}"
        )
    target.chmod(0o444)


def _references(folder: int) -> References:
    """Read HEAD, packed-refs and the files below refs; a file overrides a line of packed-refs."""
    values: dict[str, str] = {}
    for name, content in _loose(folder, "refs", 0):
        if _VALUE.fullmatch(content):
            values[name] = content.decode()
        if len(values) > _MOST_REFERENCES:
            raise WorkspaceError(f"the bottle made more than {_MOST_REFERENCES} references")
    values = _packed(folder) | values
    with files.open_regular("HEAD", folder) as file:
        head = _line(file)
    if head.startswith(b"ref: refs/"):
        return References(os.fsdecode(head.removeprefix(b"ref: ")), values)
    if not _VALUE.fullmatch(head):
        raise OSError("HEAD does not name a commit")
    return References(head.decode(), values)


def _packed(folder: int) -> dict[str, str]:
    try:
        with files.open_regular("packed-refs", folder) as file:
            lines = file.read(_LARGEST_LIST).split(b"\n")
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        if match := _PACKED_LINE.fullmatch(line):
            found[os.fsdecode(match.group(2))] = match.group(1).decode()
    return found


def _loose(parent: int, path: str, depth: int) -> Iterator[tuple[str, bytes]]:
    if depth > _DEEPEST:
        raise OSError("references are nested too deep")
    with files.open_folder(path.rpartition("/")[2], parent) as folder:
        for name in files.list_names(folder):
            if name.endswith(_LOCK):
                continue
            with suppress(FileNotFoundError):
                if files.is_folder(name, folder):
                    yield from _loose(folder, f"{path}/{name}", depth + 1)
                    continue
                with files.open_regular(name, folder) as file:
                    yield f"{path}/{name}", _line(file)


def _line(file: BinaryIO) -> bytes:
    return file.read(4096).removesuffix(b"\n")

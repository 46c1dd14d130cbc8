"""Files that git changes on their way between a folder and its objects: git LFS, git-crypt and others.

No filter is run here: it is a program that a repository or a user's settings name. LFS pointers are computed.
Sources: gitattributes(5) on `filter`; https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from bot_bottle.workspace.git import Git
from bot_bottle.workspace.index import read_names

_CHUNK = 1 << 20
_LARGEST_POINTER = 1024  # bytes
_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_UNSET = (b"unspecified", b"unset", b"set")
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def filters_of(git: Git, names: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the filter of each name that has one, by the rules in the folder and the index."""
    parts = list(read_names(git, "check-attr", "-z", "--stdin", "filter", names=names))
    found = zip(parts[::3], parts[2::3], strict=True)
    return {name: value for name, value in found if value not in _UNSET}


def list_modified(git: Git, names: Iterable[bytes], known: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the names that may have changed since the index was written; `known` are those in it."""
    changed = set(
        read_names(git, "diff-files", "-z", "--name-only", "--no-ext-diff", "--ignore-submodules=all")
    )
    return [name for name in names if name in changed or name not in known]


def lfs_entry(git: Git, work: Path, name: bytes) -> bytes | None:
    """Return the `MODE OBJECT` that git LFS would give a file, or None for what it would take as it is."""
    with _opened(work, name) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or not facts.st_size or _is_pointer(file, facts.st_size):
            return None
        hashed = hashlib.sha256()
        while data := file.read(_CHUNK):
            hashed.update(data)
        pointer = _POINTER + f"oid sha256:{hashed.hexdigest()}\nsize {file.tell()}\n".encode()
    blob = git.run("hash-object", "-w", "--no-filters", "--stdin", input=pointer).text
    return (b"100755 " if facts.st_mode & stat.S_IXUSR else b"100644 ") + blob.encode()


def is_pointer_file(git: Git, name: bytes) -> bool:
    """Return whether a file in the folder of `git` is the pointer of an LFS file."""
    assert git.work_tree is not None  # noqa: S101 - a clone has one
    try:
        with _opened(git.work_tree, name) as file:
            return _is_pointer(file, os.fstat(file.fileno()).st_size)
    except OSError:
        return False


def _opened(work: Path, name: bytes) -> BinaryIO:
    return os.fdopen(os.open(os.path.join(os.fsencode(work), name), _FILE), "rb")  # noqa: PTH118 - of bytes


def _is_pointer(file: BinaryIO, size: int) -> bool:
    if size > _LARGEST_POINTER:
        return False
    found = file.read(len(_POINTER)) == _POINTER
    file.seek(0)
    return found

"""Images made member by member, and trees read back from tars, to be compared."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

Member = tuple[tarfile.TarInfo, bytes]


def _member(name: str, kind: bytes, mode: int, facts: dict[str, Any], data: bytes = b"") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime, info.size = kind, mode, 1_600_000_000, len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, data


def file(name: str, data: bytes = b"x", mode: int = 0o644, **facts: Any) -> Member:
    return _member(name, tarfile.REGTYPE, mode, facts, data)


def folder(name: str, mode: int = 0o755, **facts: Any) -> Member:
    return _member(name, tarfile.DIRTYPE, mode, facts)


def symlink(name: str, target: str, **facts: Any) -> Member:
    return _member(name, tarfile.SYMTYPE, 0o777, {"linkname": target, **facts})


def hardlink(name: str, target: str, mode: int = 0o644, **facts: Any) -> Member:
    return _member(name, tarfile.LNKTYPE, mode, {"linkname": target, **facts})


def fifo(name: str, **facts: Any) -> Member:
    return _member(name, tarfile.FIFOTYPE, 0o600, facts)


def device(name: str, major: int, minor: int, mode: int = 0o666, **facts: Any) -> Member:
    return _member(name, tarfile.CHRTYPE, mode, {"devmajor": major, "devminor": minor, **facts})


def xattrs(**values: str) -> dict[str, str]:
    """PAX records for extended attributes; `user__k` stands for `user.k`."""
    return {f"SCHILY.xattr.{key.replace('__', '.')}": value for key, value in values.items()}


def layer(members: Iterable[Member], form: Literal[0, 1, 2] = tarfile.GNU_FORMAT) -> bytes:
    """One layer's tar. PAX headers are written where a member has records of its own."""
    out = bytearray()
    for info, data in members:
        records = info.pax_headers
        out += info.tobuf(tarfile.PAX_FORMAT if records else form, "utf-8", "surrogateescape")
        out += data + bytes(-len(data) % 512)
    return bytes(out + bytes(1024))


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(layers: Iterable[bytes], architecture: str = "amd64", **run: Any) -> bytes:
    """An image config for uncompressed layers."""
    rootfs = {"type": "layers", "diff_ids": [digest(each) for each in layers]}
    facts = {"architecture": architecture, "os": "linux", "config": {"Cmd": ["/x"], **run}, "rootfs": rootfs}
    return json.dumps(facts).encode()


def files_tar(files: dict[str, bytes]) -> bytes:
    """A tar of plain files, as engines write archives."""
    return layer([file(name, data, mtime=0) for name, data in files.items()])


def saved_files(layers: list[bytes], conf: bytes = b"") -> dict[str, bytes]:
    """Return the files of a docker-save archive in the old layout, with this config or one for the layers."""
    conf = conf or config(layers)
    names = [f"{number:064x}/layer.tar" for number in range(len(layers))]
    entry = {"Config": f"{digest(conf)[7:]}.json", "RepoTags": ["crafted:latest"], "Layers": names}
    return {
        entry["Config"]: conf,  # type: ignore[dict-item]
        **dict(zip(names, layers, strict=True)),
        "manifest.json": json.dumps([entry]).encode(),
    }


def saved(*layers: bytes) -> bytes:
    """A docker-save archive in the old layout."""
    return files_tar(saved_files(list(layers)))


class Seen(NamedTuple):
    """One entry of a tree: its kind, what is in it, its attributes, all the names it has."""

    kind: str
    content: bytes | str
    mode: int
    uid: int
    gid: int
    mtime: int
    names: tuple[str, ...]


_KINDS = {b"0": "file", b"2": "symlink", b"3": "char", b"4": "block", b"5": "folder", b"6": "fifo"}


def tree(data: bytes) -> dict[str, Seen]:
    """Read a tar as the tree that it is when unpacked in order."""
    inodes: dict[str, Seen] = {}
    groups: dict[str, list[str]] = {}
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            name = member.name.rstrip("/")
            if member.islnk():
                groups[member.linkname].append(name)
                groups[name] = groups[member.linkname]
                inodes[name] = inodes[member.linkname]
                continue
            groups[name] = [name]
            content: bytes | str = member.linkname
            if member.isreg():
                opened = tar.extractfile(member)
                assert opened is not None
                content = opened.read()
            elif member.ischr() or member.isblk():
                content = f"{member.devmajor}:{member.devminor}"
            inodes[name] = Seen(
                _KINDS[member.type],
                content,
                member.mode & 0o7777,
                member.uid,
                member.gid,
                int(member.mtime),
                (),
            )
    return {name: seen._replace(names=tuple(sorted(groups[name]))) for name, seen in inodes.items()}


def brief(data: bytes) -> dict[str, bytes | str]:
    """The tree of a tar in few words: a file's content, `/` for a folder, `-> target`, `= first name`."""
    found: dict[str, bytes | str] = {}
    for name, seen in tree(data).items():
        first = seen.names[0]
        if name != first:
            found[name] = f"= {first}"
        elif seen.kind == "folder":
            found[name] = "/"
        elif seen.kind == "symlink":
            found[name] = f"-> {seen.content!s}"
        else:
            found[name] = seen.content if seen.kind == "file" else f"{seen.kind} {seen.content!s}".strip()
    return found

"""The system image: smolvm's guest files without what a bottle does not use, and our own init, as EROFS."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import zstandard

from bot_bottle.erofs.writer import ImageWriter
from bot_bottle.errors import AccelError
from bot_bottle.vm.direct.guest import BUNDLE, TOOLKIT
from bot_bottle.vm.guest_rootfs import Guest

_OMITTED = ("usr/local/lib/smolvm-vulkan", "usr/local/bin/crane", "usr/share", "etc/terminfo")
_SCRIPTS = ("init.sh", "agent.sh", "fstab", "disks")
_FOLDERS = ("lower", "rootfs", "storage")
_TOOLS = {"bin/busybox": "busybox", "lib/ld-musl-x86_64.so.1": "ld.so"}
_PIECE = 1 << 20


def write_system(guest: Guest, target: Path) -> None:
    """Write the system image of the installed guest files. Raises AccelError, ArtifactError, OSError."""
    partial = target.with_name(f"{target.name}.partial")
    with partial.open("wb") as file:
        _fill(ImageWriter(file), guest)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)


def _fill(image: ImageWriter, guest: Guest) -> None:
    tools: dict[str, bytes] = {}
    with guest.path.open("rb") as packed, _members(packed) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name.startswith(_OMITTED):
                continue
            member.uid = member.gid = 0
            pieces = _pieces(tar, member)
            if name in _TOOLS and member.isreg():
                tools[name] = b"".join(pieces)
                pieces = iter((tools[name],))
            image.member(member, pieces)
    if missing := _TOOLS.keys() - tools.keys():
        raise AccelError("smolvm's guest files are incomplete", why=f"they lack {', '.join(sorted(missing))}")
    for name, data in tools.items():
        image.add_file(f"{TOOLKIT[1:]}/{_TOOLS[name]}".encode(), data, 0o755)
    image.add_file(f"{TOOLKIT[1:]}/{BUNDLE}".encode(), b"", 0o644)  # a file is mounted on it
    for name in _SCRIPTS:
        image.add_file(f"bottle/{name}".encode(), script(name), 0o755)
    for name in _FOLDERS:
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        image.member(folder, iter(()))
    image.finish()


def script(name: str) -> bytes:
    """Return one of the guest's files that are ours."""
    return resources.files("bot_bottle.vm.direct.guest").joinpath(name).read_bytes()


@contextmanager
def _members(packed: BinaryIO) -> Iterator[tarfile.TarFile]:
    stream = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        yield tar


def _pieces(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(member) if member.isreg() else None
    while file is not None and (piece := file.read(_PIECE)):
        yield piece

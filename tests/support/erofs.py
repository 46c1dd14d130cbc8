"""EROFS images written from crafted members, and what other readers see in them."""

from __future__ import annotations

import io
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bot_bottle.erofs.writer import ImageWriter
from bot_bottle.tar.reader import Headers
from tests.support.crafted import Member, layer


class Source(io.BytesIO):
    """Bytes as the forward stream of a tar."""

    def skip(self, count: int, /) -> int:
        return len(self.read(count))


def write_image(image: Path, data: bytes) -> int:
    """Write the image of a tar; return the number of inodes."""
    with image.open("wb") as file:
        writer = ImageWriter(file)
        headers = Headers(Source(data), "the tar")
        for member in headers:
            writer.member(member, headers.data())
        return writer.finish()


def image_of(folder: Path, members: Iterable[Member]) -> Path:
    """Write the image of these members and check it with fsck.erofs."""
    image = folder / "root.erofs"
    write_image(image, layer(members))
    check(image)
    return image


def check(image: Path) -> None:
    """Raise where fsck.erofs (erofs-utils) finds a fault or gives a warning."""
    done = subprocess.run(["fsck.erofs", image], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout in ("", "No errors found\n"), done


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """Mount an image with the kernel's own reader."""
    place.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def listed(root: Path) -> dict[str, dict[str, Any]]:
    """Everything in a folder by its path: attributes, content, and which names are one file."""
    found: dict[str, dict[str, Any]] = {}
    first: dict[int, str] = {}
    for path in sorted([root, *root.rglob("*")]):
        facts = path.lstat()
        name = str(path.relative_to(root))
        content: Any = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        elif not path.is_dir():
            content = (os.major(facts.st_rdev), os.minor(facts.st_rdev))
        found[name] = {
            "mode": stat.filemode(facts.st_mode),
            "owner": (facts.st_uid, facts.st_gid),
            "mtime": facts.st_mtime_ns,
            "names": facts.st_nlink,
            "first": name if path.is_dir() else first.setdefault(facts.st_ino, name),
            "xattrs": {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            },
            "content": content,
        }
    return found

"""EROFS images written from crafted members, and what other readers see in them."""

from __future__ import annotations

import io
import os
import re
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
    """Raise where fsck.erofs (erofs-utils) finds a fault or gives a warning, or dump.erofs another size."""
    done = subprocess.run(["fsck.erofs", image], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout in ("", "No errors found\n"), done
    found = superblock(image)
    assert int(found["magic number"], 16) == 0xE0F5E1E2
    assert int(found["blocks"]) * 4096 == image.stat().st_size
    assert {*found["features"].split()} == {"sb_csum", "mtime"}


def superblock(image: Path) -> dict[str, str]:
    """What dump.erofs says of the file system."""
    lines = _dump(image, "-s").splitlines()
    return dict(re.findall(r"Filesystem ([^:]+): +(.*?) *$", line)[0] for line in lines if ":" in line)


def dumped(image: Path, path: str) -> dict[str, Any]:
    """What dump.erofs says of one file."""
    text = _dump(image, f"--path=/{path}")
    found = re.search(
        r"Size: (\d+) .*?(regular file|directory|symlink|char dev|block dev|FIFO)"
        r".*?Links: (\d+).*?Xattr size: (\d+).*?Uid: (\d+) +Gid: (\d+) +Access: (\d+)/"
        r".*?Timestamp: (\S+ \S+)",
        text,
        re.DOTALL,
    )
    assert found, text
    size, kind, links, xattrs, uid, gid, mode, time = found.groups()
    return {
        "kind": kind,
        "size": int(size),
        "links": int(links),
        "xattrs": int(xattrs) > 0,
        "owner": (int(uid), int(gid)),
        "mode": int(mode, 8) & 0o777,  # some versions show no more
        "time": time,
    }


def _dump(image: Path, *options: str) -> str:
    done = subprocess.run(
        ["dump.erofs", *options, image], capture_output=True, text=True, env={**os.environ, "TZ": "UTC"}
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


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
        if stat.S_ISLNK(facts.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(facts.st_mode):
            content = path.read_bytes()
        elif not stat.S_ISDIR(facts.st_mode):
            content = (os.major(facts.st_rdev), os.minor(facts.st_rdev))
        found[name] = {
            "mode": stat.filemode(facts.st_mode),
            "owner": (facts.st_uid, facts.st_gid),
            "mtime": facts.st_mtime_ns,
            "names": facts.st_nlink,
            "first": name if stat.S_ISDIR(facts.st_mode) else first.setdefault(facts.st_ino, name),
            "xattrs": {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            },
            "content": content,
        }
    return found

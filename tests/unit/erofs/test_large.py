"""Images of many files and of large ones: read by the kernel, made in bounded memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.crafted import file, folder, hardlink, layer, symlink
from tests.support.erofs import check, mounted

pytestmark = [pytest.mark.slow, pytest.mark.root]

GIB = 1 << 30
WRITE = """
import resource, sys
from bot_bottle.erofs.writer import ImageWriter
from bot_bottle.tar.reader import Headers

class Source:
    def __init__(self, file): self.read = file.read
    def skip(self, count): return len(self.read(count))

with open(sys.argv[2], "wb") as image:
    writer = ImageWriter(image)
    headers = Headers(Source(sys.stdin.buffer), "the tar")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for member in headers:
        writer.member(member, headers.data())
    inodes = writer.finish()
print(inodes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def written(tar: list[str], image: Path) -> tuple[int, int]:
    """Write the image of a tar that a command writes; return the inodes, and the growth in memory in MiB."""
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as source:
        done = subprocess.run(
            [sys.executable, "-c", WRITE, "-", image], stdin=source.stdout, capture_output=True, check=True
        )
    assert source.returncode == 0
    inodes, memory = map(int, done.stdout.split())
    check(image)
    return inodes, memory >> 10


def compare(tar: Path, root: Path) -> None:
    """Compare a tar with a folder, by GNU tar: content, mode, owner, time, links."""
    command = ["tar", "--compare", "--numeric-owner", "-f", str(tar), "-C", str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_two_hundred_thousand_entries(tmp_path: Path) -> None:
    members = [folder("one", uid=1000)]
    members += [file(f"one/{n:06}", b"%d" % n, mtime=n) for n in range(80_000)]
    for n in range(0, 100_000, 50):
        members.append(folder(f"tree/{n:06}", mtime=n))
        members += [file(f"tree/{n:06}/{m:02}.js", b"%d" % m * (m * 97), uid=m) for m in range(50)]
    members += [hardlink(f"links/{n}", f"one/{n:06}", mtime=n) for n in range(8_000)]
    members += [symlink(f"symlinks/{n}", f"../one/{n:06}") for n in range(10_000)]
    tar = tmp_path / "many.tar"
    tar.write_bytes(layer(members))
    image = tmp_path / "many.erofs"
    inodes, memory = written(["cat", str(tar)], image)
    assert len(members) > 200_000
    assert inodes == len(members) - 8_000 + 4  # tree, links, symlinks and the root have no member
    assert memory < 60
    with mounted(image, tmp_path / "mounted") as root:
        compare(tar, root)
        assert sum(1 for _ in (root / "one").iterdir()) == 80_000
        assert (root / "links/77").stat().st_nlink == 2


def test_five_gigabytes_in_one_file(tmp_path: Path) -> None:
    large = tmp_path / "large"
    block = os.urandom(1 << 20)
    wanted = hashlib.sha256()
    with large.open("wb") as out:
        for number in range(5 * 1024):
            piece = b"%08d" % number + block[8:]
            out.write(piece)
            wanted.update(piece)
        out.write(b"end")
        wanted.update(b"end")
    image = tmp_path / "large.erofs"
    _, memory = written(["tar", "-cf", "-", "-C", str(tmp_path), "large"], image)
    large.unlink()
    assert memory < 60
    with mounted(image, tmp_path / "mounted") as root, (root / "large").open("rb") as opened:
        assert (root / "large").stat().st_size == 5 * GIB + 3
        assert hashlib.file_digest(opened, "sha256").hexdigest() == wanted.hexdigest()
    image.unlink()  # pytest would not remove it yet


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_sparse_file_of_five_gigabytes_needs_no_room(tmp_path: Path, form: str) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as out:
        for at in (1 << 20, 4 * GIB + 12_345, 5 * GIB - 4):
            out.seek(at)
            out.write(b"data")
    image = tmp_path / "sparse.erofs"
    command = ["tar", "--sparse", f"--format={form}", "-cf", "-", "-C", str(tmp_path), "sparse"]
    _, memory = written(command, image)
    assert memory < 60
    assert image.stat().st_blocks * 512 < 8 << 20
    with mounted(image, tmp_path / "mounted") as root:
        subprocess.run(["cmp", sparse, root / "sparse"], check=True)

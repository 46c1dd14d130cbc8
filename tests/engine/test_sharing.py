"""Artifacts on file systems where files can share their blocks: what they have in common is there once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.bottle import Bottle
from tests.support.crafted import file, layer, saved

SIZE = 30_000_000  # bytes of a layer that all images have


@pytest.fixture(params=["btrfs", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk with such a file system."""
    image, place = tmp_path / "disk", tmp_path / "place"
    place.mkdir()
    with image.open("wb") as whole:
        whole.truncate(600 << 20)
    subprocess.run([f"mkfs.{request.param}", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def used(disk: Path) -> int:
    """Give how many bytes are in use, once all is written."""
    subprocess.run(["sync", "-f", disk], check=True)
    facts = os.statvfs(disk)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


def test_images_that_share_a_layer_share_its_place(disk: Path, bottle: Bottle, tmp_path: Path) -> None:
    here = replace(bottle, cache=disk / "cache")
    base = layer([file("large", os.urandom(SIZE)), file("small", b"small")])
    archive, sizes = tmp_path / "image.tar", []
    for number in range(3):
        archive.write_bytes(saved(base, layer([file("app", b"%d" % number)])))
        before = used(disk)
        made = here("pack", "--archive", archive, "-o", disk / f"{number}.smolmachine").path
        sizes.append(used(disk) - before)
        assert here("verify", made, "--archive", archive).code == 0
    assert sizes[0] > SIZE
    assert max(sizes[1:]) < SIZE // 10, sizes

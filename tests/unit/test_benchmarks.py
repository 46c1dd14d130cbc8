"""What benchmarks measure with: limits, tables, bars, memory, and images that can be packed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.measure import Claim, bars, table, watched
from benchmarks.scale import write_image

from bot_bottle.image.archive import open_archive
from bot_bottle.image.flatten import flatten


@pytest.mark.parametrize(
    ("ours", "at_most", "at_least", "holds"),
    [
        ((1.0, 2.0, 90.0), 0.5, None, True),  # the median is 2
        ((1.0, 2.1, 90.0), 0.5, None, False),
        ((8.0,), None, 2.0, True),
        ((7.9,), None, 2.0, False),
        ((99.0,), None, None, True),
    ],
)
def test_a_claim_is_held_against_its_limit(
    ours: tuple[float, ...], at_most: float | None, at_least: float | None, holds: bool
) -> None:
    claim = Claim("it", "s", ours, (3.0, 4.0, 5.0), "that", at_most, at_least)
    assert claim.holds is holds
    marked = "holds |" in table("all", [claim]), "DOES NOT HOLD" in table("all", [claim])
    assert marked == ((holds, not holds) if claim.limit else (False, False))


def test_bars_are_as_long_as_what_they_show() -> None:
    claim = Claim("it", "s", (1.0,), (4.0,), "that")
    what, ours, theirs = bars([claim], width=8).splitlines()
    assert what == "it"
    assert (ours.count("#"), theirs.count("#")) == (2, 8)
    assert ours.endswith("1 s")
    assert theirs.endswith("4 s")


def test_memory_is_that_of_the_program() -> None:
    _, small = watched(sys.executable, "-c", "pass", env={})
    _, large = watched(sys.executable, "-c", "import os; x = os.environ['X'] * 400_000_000", env={"X": "x"})
    assert 400_000_000 < large < small + 500_000_000


def test_a_program_that_fails_is_not_measured() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        watched("false", env={})


def test_made_images_are_what_is_said_of_them(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    write_image(path, 1500, 100)
    with open_archive(path) as image:
        assert flatten(image).entries == 1500 + 3  # and their folders
    assert [each.name for each in tmp_path.iterdir()] == ["image.tar"]

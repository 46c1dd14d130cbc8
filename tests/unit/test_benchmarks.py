"""What benchmarks measure with: limits, tables, bars, memory, and images that can be packed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks.measure import Claim, table, watched
from benchmarks.plot import plot
from benchmarks.scale import write_image

from bot_bottle.image.archive import open_archive
from bot_bottle.rootfs.flatten import flatten


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


def test_a_plot_is_as_long_as_what_it_shows() -> None:
    claims = [Claim("it & <it>", "s", (1.0,), (4.0,), "that", at_most=0.5)]
    claims += [Claim(f"pack of {n} MB", "s", (n / 2,), (9.0,), "more", amount=n) for n in (2, 4)]
    drawn = ElementTree.fromstring(plot(claims))  # noqa: S314 - what we have just made
    svg = "{http://www.w3.org/2000/svg}"
    names = [text.text for text in drawn.iter(f"{svg}text")]
    assert names[:5] == ["it & <it>", "bottle", "1 s", "that", "4 s"]
    assert names[5:] == ["2 MB: 1 s", "4 MB: 2 s"]
    ours, theirs = [float(bar.attrib["width"]) for bar in drawn.iter(f"{svg}rect") if bar.get("x")]
    assert theirs == 4 * ours
    points = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in drawn.iter(f"{svg}circle")]
    assert points[0][0] < points[1][0]
    assert points[0][1] > points[1][1]


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
    found = []
    for _ in range(2):
        write_image(path, 2, 100, 5000)
        with open_archive(path) as image:
            found.append([layer.diff_id for layer in image.layers])
            assert flatten(image).entries == 2 + 1 + 4
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]
    assert [each.name for each in tmp_path.iterdir()] == ["image.tar"]

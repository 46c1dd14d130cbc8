"""`bottle verify` and `bottle pack --verify`: with an image, an archive, neither; and their statuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.engine.conftest import Context
from tests.support.bottle import Bottle
from tests.support.engines import Docker


@pytest.fixture
def packed(bottle: Bottle, saved: Path) -> Path:
    """The artifact of the saved image."""
    return bottle("pack", "-q", "--archive", saved).path


def test_pack_verify_compares_with_the_image_it_packed(
    bottle: Bottle, image: str, image_config: str, saved: Path, tmp_path: Path
) -> None:
    first = bottle("pack", "--verify", "--image", image)
    assert first.path.is_file()
    assert f"equal to image {image_config[:19]}" in first.err
    again = bottle("pack", "--verify", "-q", "--archive", saved, "-o", tmp_path / "out.smolmachine")
    assert again.path == tmp_path / "out.smolmachine"
    assert again.err == ""
    assert bottle.leftovers == []


def test_an_artifact_is_verified_with_an_image_an_archive_or_alone(
    bottle: Bottle, image: str, image_config: str, saved: Path, packed: Path
) -> None:
    for source in (("--image", image), ("--archive", saved)):
        done = bottle("verify", "-q", packed, *source)
        assert (done.code, done.err) == (0, ""), done
        assert f"equal to image {image_config[:19]}" in done.out
        report = json.loads(bottle("verify", "--json", packed, *source).out)
        assert report["ok"]
        assert report["image_id"] == image_config
        assert report["entries"] > 250
        assert not [finding for finding in report["findings"] if not finding["expected"]]
    alone = bottle("verify", "-q", packed)
    assert alone.code == 0
    assert "complete" in alone.out
    assert json.loads(bottle("verify", "--json", packed).out)["image_id"] is None
    assert bottle.leftovers == []


def test_another_image_differs(bottle: Bottle, context: Context, docker: Docker, packed: Path) -> None:
    other = docker.build(context("RUN echo other > /one && chmod 600 /etc/passwd", "USER agent"))
    done = bottle("verify", "-q", packed, "--image", other)
    assert done.code == 115
    assert done.err == ""
    for line in ("image id  image sha256", "/etc/passwd  image 0o600  artifact 0o644", "user  image agent"):
        assert line in done.out
    report = json.loads(bottle("verify", "--json", packed, "--image", other).out)
    assert report["ok"] is False
    [content] = [finding for finding in report["findings"] if finding["what"] == "content"]
    assert [example["path"] for example in content["examples"]] == ["/one"]
    assert bottle.leftovers == []


def test_a_file_or_image_that_cannot_be_verified_is_refused(
    bottle: Bottle, saved: Path, packed: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.smolmachine"
    shutil.copy(packed, copy)
    with copy.open("r+b") as file:
        file.seek(copy.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0xFF]))
    bottle("verify", "-q", copy).failed(106, "damaged")
    bottle("verify", "-q", saved).failed(106, "not a .smolmachine file")
    bottle("verify", "-q", tmp_path / "nowhere").failed(106, "cannot open")
    bottle("verify", "-q", packed, "--image", "no-such-image").failed(103, "no-such-image")
    bottle("verify", "-q", packed, "--archive", tmp_path / "nowhere").failed(101, "no such archive")
    bottle("verify", "-q", packed, "--archive", packed).failed(101, "is an artifact already")
    bottle("verify", "-q", packed, "--archive", saved, "--image", "x").failed(2, "exclude each other")
    assert bottle.leftovers == []

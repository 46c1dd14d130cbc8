"""The disk of an emulated microVM has the size that was asked for; a full one is the command's error."""

from __future__ import annotations

from pathlib import Path

from tests.support.bottle import Bottle
from tests.support.engines import Docker

SCRIPT = """
size=$(df -m / | sed -n '$s/ *[^ ]* *\\([0-9]*\\) .*/\\1/p')
[ "$size" -gt 200 ] && [ "$size" -le 300 ] && echo sized
dd if=/dev/zero of=/t/large bs=1M count=400 2>&1 | grep -o 'No space left on device'
rm /t/large && echo later > /t/large && cat /t/large
"""


def test_a_microvm_has_the_storage_that_was_asked_for_and_goes_on_when_it_is_full(
    docker: Docker, image: str, shared_cache: Path, tmp_path: Path
) -> None:
    docker.docker("save", "--output", str(tmp_path / "image.tar"), image)
    bottle = Bottle(shared_cache, {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state")})
    own = ("-q", "--accel", "direct", "-m", "512m", "-u", "0", "--storage", "300m")
    ended = bottle("run", *own, "--archive", tmp_path / "image.tar", "--", "sh", "-c", SCRIPT, timeout=200)
    assert (ended.code, ended.out.splitlines()) == (0, ["sized", "No space left on device", "later"]), ended
    assert bottle.leftovers == []

"""The root image that is booted without KVM: read by the guest's kernel, made again when it is damaged."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from tests.support.smolmachines import root_of
from tests.vm.conftest import COMMAND

from bot_bottle.cache.entry import sum_path

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("shared_cache")]

FILES = "find bin etc/passwd etc/group t -type f ! -name 'raw*' ! -name 'new*'"
LIST = f"cd / && {FILES} -exec sha256sum {{}} + | sort"


def bottle(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done
    return done


def test_the_guest_reads_what_is_in_the_artifact_and_damage_is_found(image: str) -> None:
    artifact = Path(bottle("pack", "--image", image).stdout.strip())
    root = artifact.with_suffix(".erofs")
    start = ("run", "--accel=direct", "--image", image, "--user=0", "--", "sh", "-c", LIST)
    first = bottle(*start)
    seen = {name: digest for digest, name in (line.split("  ", 1) for line in first.stdout.splitlines())}
    wanted = {name: hashlib.sha256(data).hexdigest() for name, data in root_of(artifact).items()}
    assert seen.keys() > {"bin/busybox", "t/zeros", "t/original", "t/second", "t/third", "t/opaque/above"}
    assert seen == {name: wanted[name] for name in seen}

    with root.open("r+b") as opened:
        opened.seek(1100)
        opened.write(b"damage")
    again = bottle(*start)
    assert f"{root.name} is damaged and will be made again" in again.stderr
    assert again.stdout == first.stdout

    sum_path(root).unlink()
    root.unlink()
    assert bottle(*start).stdout == first.stdout
    assert "root" not in [line.split()[0] for line in bottle(*start).stderr.splitlines()]

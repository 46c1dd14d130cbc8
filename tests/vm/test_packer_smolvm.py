"""`--packer smolvm`: the reference makes an artifact of the same image, and what is in it is the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.support.engines import Docker
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context
from tests.support.layouts import archive
from tests.vm.conftest import COMMAND
from tests.vm.test_streams import LISTING

from bot_bottle.smolmachine.format import verify

# an artifact of smolvm's with such links is refused by smolvm when it is unpacked
_REFUSED_LINKS = " && ln -s / /t/to-root && ln -s ../../../../etc/passwd /t/over"

# smolvm shows what an opaque folder hides, and writes a layer's file into the one below in place, so that
# the names that were linked to that one change with it
_SMOLVMS_OWN = (b"t/opaque/below", b"t/second is ", b" is t/second")


@pytest.fixture
def image(docker: Docker, tmp_path: Path) -> str:
    """The image of this tier, less what smolvm cannot carry."""
    assert _REFUSED_LINKS in BOTTLE_DOCKERFILE
    return docker.build(busybox_context(tmp_path / "context", BOTTLE_DOCKERFILE.replace(_REFUSED_LINKS, "")))


def bottle(*args: str | Path) -> bytes:
    done = subprocess.run([*COMMAND, *args], capture_output=True, timeout=590, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("shared_cache")
def test_its_artifact_boots_and_holds_every_file(docker: Docker, image: str, tmp_path: Path) -> None:
    docker.docker("save", "--output", str(tmp_path / "saved.tar"), image)
    source = ("--packer", "smolvm", "--archive", archive(tmp_path / "saved.tar", "oci-folder", tmp_path))
    packed = json.loads(bottle("pack", "--json", *source))
    assert (packed["packer"], packed["cache"], packed["image_id"]) == ("smolvm", "miss", image)
    manifest = verify(Path(packed["path"])).manifest
    assert (manifest.user, manifest.workdir, manifest.network) == ("agent", "/home/agent", False)
    here = bottle("run", "-q", *source, "-u", "0", "--", "sh", "-c", LISTING)
    there = docker.docker(
        "run", "--rm", "--network=none", "--user=0", "--entrypoint=sh", image, "-c", LISTING
    )
    more, less = (
        set(here.splitlines()) - set(there.splitlines()),
        set(there.splitlines()) - set(here.splitlines()),
    )
    assert less == set()
    assert {line for line in more if not any(name in line for name in _SMOLVMS_OWN)} == set()

"""`--packer smolvm`: the reference makes an artifact of the same image, and what is in it is the same."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from tests.support.engines import Docker
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context
from tests.support.layouts import archive
from tests.vm.conftest import COMMAND, run_attached
from tests.vm.test_streams import LISTING

from bot_bottle.bottle import run as pipeline
from bot_bottle.bottle.gc import run_context
from bot_bottle.bottle.spec import BottleSpec, make_slug
from bot_bottle.engine.source import Source
from bot_bottle.host.progress import Progress
from bot_bottle.pack.converter import Converter
from bot_bottle.pack.options import ConvertOptions
from bot_bottle.smolmachine.format import verify
from bot_bottle.vm.emulated.qemu import find_qemu

# a minute or two; with a machine of smolvm's that does not come up, some more
pytestmark = pytest.mark.timeout(900)

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


# the first machine ends in the middle of its work, as emulated ones sometimes do
QEMU = """\
#!/bin/sh
if [ "$1" != --version ] && mkdir "$0.used" 2>/dev/null; then exec timeout -s KILL 15 @qemu@ "$@"; fi
exec @qemu@ "$@"
"""


def bottle_command(*args: str | Path, **variables: str) -> tuple[bytes, bytes]:
    env = {**os.environ, **variables}
    done = subprocess.run([*COMMAND, *args], capture_output=True, timeout=880, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def failing_once(tmp_path: Path) -> Path:
    """A folder with a QEMU whose first machine does not last."""
    folder = tmp_path / "bin"
    folder.mkdir()
    fake = folder / "qemu-system-x86_64"
    fake.write_text(QEMU.replace("@qemu@", str(find_qemu())))
    fake.chmod(0o755)
    return folder


@pytest.mark.usefixtures("shared_cache")
def test_its_artifact_boots_and_holds_every_file(
    docker: Docker, image: str, tmp_path: Path, failing_once: Path
) -> None:
    docker.docker("save", "--output", str(tmp_path / "saved.tar"), image)
    source = ("--packer", "smolvm", "--archive", archive(tmp_path / "saved.tar", "oci-folder", tmp_path))
    out, err = bottle_command("pack", "--json", *source, PATH=f"{failing_once}:{os.environ['PATH']}")
    assert b"retrying on a new emulated host" in err
    packed = json.loads(out)
    assert (packed["packer"], packed["cache"], packed["image_id"]) == ("smolvm", "miss", image)
    manifest = verify(Path(packed["path"])).manifest
    assert (manifest.user, manifest.workdir, manifest.network) == ("agent", "/home/agent", False)
    here, _ = bottle_command("run", "-q", *source, "-u", "0", "--", "sh", "-c", LISTING)
    assert_same(here, docker, image)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_original_path_gives_an_artifact_that_boots(docker: Docker, image: str) -> None:
    """Pushed by docker into the registry, pulled from there by smolvm, and booted; all by one command."""
    source = Source(image=image)
    spec = BottleSpec(source, make_slug(source), command=("sh", "-c", LISTING), user="0", memory_mib=1024)
    progress = Progress("plain")
    with run_context() as run:
        options = ConvertOptions(packer="smolvm", via="registry", transport="push")
        converter = Converter(run, progress, options)
        plan = pipeline.prepare(spec, converter)
        assert plan.conversion is not None
        assert not plan.conversion.entry.hit
        manifest = verify(plan.conversion.entry.path).manifest
        assert re.fullmatch(r"127\.0\.0\.1:\d+/[0-9a-f]{32}/bot-bottle@sha256:[0-9a-f]{64}", manifest.image)
        with pytest.raises(ConnectionError):  # the registry is gone
            socket.create_connection(("127.0.0.1", int(manifest.image.split("/")[0].partition(":")[2])))
        with pipeline.launch(plan, converter, run, progress) as bottle:
            assert_same(run_attached(bottle).out, docker, image)


def assert_same(here: bytes, docker: Docker, image: str) -> None:
    """Hold that a listing has what docker's has, and no more than smolvm is known to add."""
    there = docker.docker(
        "run", "--rm", "--network=none", "--user=0", "--entrypoint=sh", image, "-c", LISTING
    )
    more, less = (
        set(here.splitlines()) - set(there.splitlines()),
        set(there.splitlines()) - set(here.splitlines()),
    )
    assert less == set()
    assert {line for line in more if not any(name in line for name in _SMOLVMS_OWN)} == set()

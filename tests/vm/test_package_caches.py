"""MicroVMs without KVM share downloaded packages, as containers do: what pip and curl get is in the cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pip
import pytest
from tests.support.bottle import Bottle, Ended
from tests.support.cached_packages import (
    CACHED,
    GET,
    INSTALL,
    SOUND,
    downloaded,
    poison,
    sums,
    with_cache,
)
from tests.support.engines import Docker
from tests.support.escapes import client_context
from tests.support.images import copy_python
from tests.support.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def archive(docker: Docker, outside: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of an image with curl and pip."""
    folder = client_context(tmp_path_factory.mktemp("client"), outside.folder / "cert.pem")
    program = copy_python(folder / "rootfs")
    (folder / "rootfs/usr/bin/python3").symlink_to(program)
    shutil.copytree(Path(pip.__file__).parent, folder / "rootfs/more/pip")
    argv = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash"]
    subprocess.run([*argv, folder / "rootfs/more", folder / "rootfs/python"], check=True, timeout=300)
    with (folder / "Dockerfile").open("a") as file:
        file.write("ENV PYTHONPATH=/more\n")
    docker.docker("save", "--output", str(folder / "image.tar"), docker.build(folder))
    return folder / "image.tar"


@pytest.fixture
def there(shared_cache: Path, outside: World, tmp_path: Path) -> Iterator[Bottle]:
    """Run `bottle` in that world with a cache that is empty."""
    shutil.rmtree(shared_cache / "packages", ignore_errors=True)
    yield with_cache(Bottle(shared_cache), outside, tmp_path)
    shutil.rmtree(shared_cache / "packages")


def test_a_microvm_gets_packages_that_an_earlier_one_has_downloaded(
    there: Bottle, archive: Path, outside: World
) -> None:
    def run(name: str) -> Ended:
        own = ("--accel=direct", "-m", "1g", "-u", "0", "--allow=api.example.org", CACHED, f"--name={name}")
        return there("run", "-q", *own, "--archive", archive, "--", "sh", "-c", GET + INSTALL, timeout=300)

    first = run("one")
    assert (first.code, first.out) == (0, sums(SOUND, 3)), first
    paths = [path for path, _ in downloaded(outside)]
    assert [path.rpartition("/")[2] for path in paths] == ["a.tgz", "a.deb", "mine-1.0-py3-none-any.whl"]
    poison(outside)  # whatever comes from outside from now on is seen
    outside.forget()
    second = run("two")
    assert (second.code, second.out) == (0, sums(SOUND, 3)), second
    assert downloaded(outside) == []
    log = map(json.loads, there("logs", "--egress", "--all", "--json", "two").out.splitlines())
    assert [each["path"] for each in log if each.get("cached")] == paths
    receipt = json.loads(there("show", "--json", "two").out)
    assert receipt["egress"]["bytes_cached"] > 2 * len(SOUND)
    assert there.leftovers == []

"""`bottle cache`: what is kept, why it would be made again, and how to be rid of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bot_bottle.cache.config_digests import ConfigDigests
from bot_bottle.image.spec import Digest
from tests.engine.conftest import Context
from tests.support.bottle import Bottle, end, wait_until
from tests.support.engines import Docker


def listed(bottle: Bottle) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(bottle("cache", "ls", "--json").out)
    return entries


@pytest.fixture
def two(bottle: Bottle, context: Context) -> tuple[Path, Path]:
    """Two artifacts, the first not used for two days."""
    old, new = (bottle("pack", context("COPY file /file", file=each)).path for each in (b"old", b"new"))
    record = old.with_suffix(".json")
    ago = time.time() - 2 * 86400
    for path in (old, record):
        os.utime(path, (ago, ago))
    return old, new


def test_an_empty_cache_lists_and_prunes_nothing(bottle: Bottle) -> None:
    assert listed(bottle) == []
    assert bottle("cache", "ls").out.count("\n") == 1
    assert bottle("cache", "verify").code == 0
    assert bottle("cache", "prune", "--all").code == 0


def test_ls_lists_the_last_used_first(bottle: Bottle, two: tuple[Path, Path]) -> None:
    assert [Path(entry["path"]) for entry in listed(bottle)] == [two[1], two[0]]
    lines = bottle("cache", "ls").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [two[1].name, two[0].name]
    assert "2 days" in lines[2]


def test_prune_by_age_removes_the_older_artifact_alone(bottle: Bottle, two: tuple[Path, Path]) -> None:
    assert bottle("cache", "prune", "--older-than", "3d").code == 0
    assert bottle.artifacts == sorted(two)
    done = bottle("cache", "prune", "--older-than", "1d")
    assert two[0].name in done.out
    assert bottle.artifacts == [two[1]]


def test_prune_by_size_keeps_the_last_used(bottle: Bottle, two: tuple[Path, Path]) -> None:
    size = two[1].stat().st_size
    assert bottle("cache", "prune", "--keep-bytes", str(size + 1000)).code == 0
    assert bottle.artifacts == [two[1]]
    assert bottle("cache", "prune", "--keep-bytes", "0").code == 0
    assert bottle.artifacts == []


@pytest.mark.parametrize("args", [("--keep-bytes", "lots"), ("--older-than", "soon"), ("--keep-bytes", "-1")])
def test_prune_takes_sizes_and_ages_only(bottle: Bottle, args: tuple[str, str]) -> None:
    done = bottle("cache", "prune", *args)
    done.failed(2, args[1])


def test_an_entry_in_use_is_not_pruned(bottle: Bottle, saved: Path) -> None:
    path = bottle("pack", "--archive", saved).path
    code = (
        "import sys; from pathlib import Path; from bot_bottle.cache.cache import Cache\n"
        "[entry] = Cache(Path(sys.argv[1])).list()\n"
        "with entry.hold(): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, path.parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        done = bottle("cache", "prune", "--all")
        assert done.code == 0
        assert path.exists()
        assert "in use" in done.out + done.err
    assert bottle("cache", "prune", "--all").code == 0
    assert not path.exists()


def test_prune_all_removes_the_digests_of_images(bottle: Bottle) -> None:
    digests = ConfigDigests(bottle.cache / "config-digests")
    fingerprint = Digest.of(b"fingerprint").hex
    digests.add(fingerprint, Digest.of(b"config"))
    for args in (("--all", "--dry-run"), ("--keep-bytes", "0"), ()):
        assert bottle("cache", "prune", *args).code == 0
        assert digests.find(fingerprint) == Digest.of(b"config")
    assert bottle("cache", "prune", "--all").code == 0
    assert digests.find(fingerprint) is None


# --- why


def test_why_names_what_changed(bottle: Bottle, context: Context) -> None:
    folder = context("COPY a /a", a=b"a")
    assert "nothing cached" in bottle("cache", "why", folder).out
    bottle("pack", folder)
    assert bottle("cache", "why", folder).out.startswith("hit")
    (folder / "Dockerfile").write_text((folder / "Dockerfile").read_text() + "COPY a /b\n")
    done = bottle("cache", "why", folder)
    assert "image" in done.out
    told = json.loads(bottle("cache", "why", "--json", folder).out)
    assert told["hit"] is False
    assert [change["part"] for change in told["changes"]] == ["config_digest"]
    other = json.loads(bottle("cache", "why", "--json", "--packer", "smolvm", folder).out)
    assert {change["part"] for change in other["changes"]} == {"config_digest", "packer"}


def test_why_reports_a_damaged_artifact(bottle: Bottle, saved: Path) -> None:
    path = bottle("pack", "--archive", saved).path
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    told = json.loads(bottle("cache", "why", "--json", "--archive", saved).out)
    assert told["hit"] is False
    assert told["damage"]


def test_verify_json_names_a_damaged_artifact(bottle: Bottle, saved: Path) -> None:
    path = bottle("pack", "--archive", saved).path
    assert json.loads(bottle("cache", "verify", "--json").out)
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"xxxx")
    done = bottle("cache", "verify", "--json")
    assert done.code == 114
    assert path.name in done.out


def test_an_artifact_is_there_while_prune_runs_beside_packs(
    bottle: Bottle, docker: Docker, context: Context
) -> None:
    images = []
    for number in range(3):
        folder = context("COPY n /n", n=b"%d" % number)
        images.append(docker.build(folder))
    packs = [bottle.start("pack", "--image", image) for image in images]
    while any(pack.poll() is None for pack in packs):
        assert bottle("cache", "prune").code == 0
    assert [end(pack).code for pack in packs] == [0, 0, 0]
    wait_until(lambda: len(bottle.artifacts) == 3, seconds=1)
    assert not bottle.leftovers

"""One image, whatever its engine calls it: rebuilt, renamed, attested, or moved to the other image store."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot_bottle.cache.config_digests import ConfigDigests
from bot_bottle.image.spec import Digest
from tests.support.bottle import Bottle
from tests.support.callers import Caller, caller
from tests.support.engines import LABEL, OWNER, Docker, private_docker
from tests.support.images import busybox_rootfs

CACHED = "cached"
EXPORTED = "pushed by docker"
# a folder is empty, and for nobody to read, for the command that follows
_HIDDEN = 'mount -t tmpfs -o mode=0000 tmpfs "$0" && exec "$@"'


@pytest.fixture(scope="module")
def containerd(engine_copy: str) -> Iterator[Docker]:
    """A docker with containerd's image store, whose buildx attests what it builds."""
    with private_docker("docker-28-containerd", engine_copy) as engine:
        yield engine


@pytest.fixture(scope="module")
def overlay2(engine_copy: str) -> Iterator[Docker]:
    with private_docker("docker-28-overlay2", engine_copy) as engine:
        yield engine


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context that no build has seen."""
    folder = tmp_path / "context"
    root = busybox_rootfs(folder / "rootfs")
    (root / "etc" / "hostname").write_text(f"{OWNER}{tmp_path}\n")
    lines = (
        "FROM scratch",
        f"LABEL {LABEL}={OWNER}",
        "COPY rootfs /",
        "COPY rootfs/etc/hostname /one",
        "USER 1000",
    )
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def bottle(cache_dir: Path, containerd: Docker) -> Bottle:
    return Bottle(cache_dir, containerd.variables)


@pytest.fixture
def ordinary(containerd: Docker) -> Iterator[Caller]:
    """An ordinary user of the engine, who cannot read its storage, so that images have to be exported."""
    with caller(12345, containerd) as who:
        root = containerd.docker("info", "--format", "{{.DockerRootDir}}").decode().strip()
        hidden = ("unshare", "--mount", "sh", "-c", _HIDDEN, root)
        changes = {**who.bottle.changes, "BUILDX_CONFIG": str(who.folder / "buildx")}
        yield replace(who, bottle=replace(who.bottle, changes=changes, prefix=hidden + who.bottle.prefix))


def why(bottle: Bottle, *args: str | Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(bottle("cache", "why", "--json", *args).line)
    return told


def index_of(docker: Docker, ref: str) -> dict[str, Any]:
    """What the store holds under a name, by the archive that docker saves of it."""
    with tarfile.open(fileobj=io.BytesIO(docker.docker("save", ref))) as tar:

        def read(name: str) -> dict[str, Any]:
            file = tar.extractfile(name)
            assert file is not None
            document: dict[str, Any] = json.loads(file.read())
            return document

        [entry] = read("index.json")["manifests"]
        return read(f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}")


def test_an_unchanged_build_of_the_users_own_is_a_hit(
    bottle: Bottle, containerd: Docker, context: Path
) -> None:
    ids, artifacts = [], set()
    for _ in range(3):
        ids.append(containerd.build(context, "--tag", "own:1"))
        done = bottle("pack", "--image", "own:1")
        assert (CACHED in done.err) == (len(ids) > 1), done
        artifacts.add(done.path)
    assert len(set(ids)) == 3  # each has the time of its build in its attestation
    kinds = {(each.get("annotations") or {}).get("vnd.docker.reference.type") for each in
             index_of(containerd, "own:1")["manifests"]}  # fmt: skip
    assert kinds == {None, "attestation-manifest"}
    assert len(artifacts) == 1
    told = why(bottle, "--image", "own:1")
    assert (told["hit"], told["image_id"]) == (True, ids[-1])
    assert told["config_digest"] not in ids
    words = bottle("cache", "why", "--image", "own:1").out
    assert words.startswith("hit")
    assert told["config_digest"] in words
    assert ids[-1] in words
    assert bottle("verify", "--image", "own:1", artifacts.pop()).code == 0


def test_another_name_and_a_build_without_attestations_are_hits(
    bottle: Bottle, containerd: Docker, context: Path
) -> None:
    attested = containerd.build(context, "--tag", "own:1")
    bottle("pack", "--image", "own:1")
    containerd.docker("tag", "own:1", "another-name:2")
    assert why(bottle, "--image", "another-name:2")["hit"]
    assert CACHED in bottle("pack", "--image", "another-name:2").err
    done = bottle("pack", context)  # bottle's own builds attest nothing
    assert CACHED in done.err, done
    told = why(bottle, context)
    assert (told["hit"], told["image_id"] != attested) == (True, True)


@pytest.mark.parametrize("way", ["to overlay2", "to containerd"])
def test_an_image_that_moves_to_the_other_store_is_a_hit(
    cache_dir: Path, containerd: Docker, overlay2: Docker, context: Path, way: str
) -> None:
    old, new = (containerd, overlay2) if way == "to overlay2" else (overlay2, containerd)
    there = old.build(context, "--tag", "own:1")
    first = Bottle(cache_dir, old.variables)("pack", "--image", "own:1").path
    new.docker("load", input=old.docker("save", "own:1"))
    moved = Bottle(cache_dir, new.variables)
    told = why(moved, "--image", "own:1")
    assert (told["hit"], told["image_id"] != there) == (True, True)
    done = moved("pack", "--image", "own:1")
    assert (CACHED in done.err, done.path) == (True, first)
    assert moved("verify", "--image", "own:1", first).code == 0


def test_an_ordinary_user_records_the_config_digest_by_the_export(
    ordinary: Caller, containerd: Docker, context: Path
) -> None:
    containerd.build(context, "--tag", "own:1")
    unknown = why(ordinary.bottle, "--image", "own:1")
    assert (unknown["hit"], unknown["config_digest"]) == (False, None)
    assert "never exported" in ordinary.bottle("cache", "why", "--image", "own:1").out
    first = ordinary.bottle("pack", "--image", "own:1")
    assert EXPORTED in first.err, first
    again = ordinary.bottle("pack", "--image", "own:1")
    rebuilt = containerd.build(context, "--tag", "own:1")
    other = ordinary.bottle("pack", "--image", "own:1")
    for done in (again, other):
        assert (CACHED in done.err, "export" in done.err, done.path) == (True, False, first.path), done
    told = why(ordinary.bottle, "--image", "own:1")
    assert (told["hit"], told["image_id"]) == (True, rebuilt)
    ordinary.left_nothing()


def test_a_build_whose_config_is_cached_is_not_exported(
    ordinary: Caller, containerd: Docker, context: Path
) -> None:
    containerd.build(context, "--tag", "own:1")
    archive = ordinary.folder / "own.tar"
    archive.write_bytes(containerd.docker("save", "own:1"))
    first = ordinary.bottle("pack", "--archive", archive).path
    done = ordinary.bottle("pack", shutil.copytree(context, ordinary.folder / "context", symlinks=True))
    assert (CACHED in done.err, "export" in done.err, done.path) == (True, False, first), done


def test_images_that_differ_in_their_history_alone_are_two(
    ordinary: Caller, containerd: Docker, context: Path
) -> None:
    artifacts = []
    for number, source in enumerate(("rootfs", "./rootfs")):
        dockerfile = ("FROM scratch", f"LABEL {LABEL}={OWNER}", f"COPY {source} /")
        (context / "Dockerfile").write_text("\n".join(dockerfile) + "\n")
        containerd.build(context, "--build-arg=SOURCE_DATE_EPOCH=1", "--tag", f"own:{number}")
        artifacts.append(ordinary.bottle("pack", "--image", f"own:{number}").path)
    one, other = (json.loads(containerd.docker("image", "inspect", f"own:{number}"))[0] for number in (0, 1))
    facts = ("Created", "Config", "RootFS")
    assert {name: one[name] for name in facts} == {name: other[name] for name in facts}
    assert artifacts[0] != artifacts[1]
    for number, artifact in enumerate(artifacts):
        assert ordinary.bottle("verify", "--image", f"own:{number}", artifact).code == 0


@pytest.mark.parametrize("wrong", ["another image's", "no digest"])
def test_a_recorded_digest_that_is_wrong_is_mended(
    bottle: Bottle, containerd: Docker, context: Path, wrong: str
) -> None:
    image = containerd.build(context, "--tag", "own:1")
    folder = bottle.cache / "config-digests"
    if wrong == "no digest":
        folder.mkdir(parents=True)
        (folder / Digest(image).hex).write_text("sha256:nothing\n")
    else:
        ConfigDigests(folder).add(Digest(image).hex, Digest.of(b"another image"))
    artifact = bottle("pack", "--image", "own:1").path
    assert bottle("verify", "--image", "own:1", artifact).code == 0
    assert why(bottle, "--image", "own:1")["hit"]
    assert bottle.artifacts == [artifact]

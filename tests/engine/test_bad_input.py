"""What goes wrong is one message with an exit status of its own, and nothing is left behind."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from tests.engine.conftest import Context
from tests.support.bottle import Bottle
from tests.support.crafted import file, files_tar, layer, saved_files
from tests.support.layouts import Form, archive

NO_ENGINE = {"PATH": "/nowhere"}


def program(folder: Path, name: str, script: str) -> dict[str, str]:
    """Put a program first on PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


# --- what is to be built


@pytest.mark.parametrize("command", ["pack", "run"])
def test_a_folder_without_a_dockerfile_is_refused(bottle: Bottle, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    done = bottle(command, tmp_path / "empty")
    done.failed(101, f"no Dockerfile or Containerfile in {tmp_path / 'empty'}", "--file")
    assert not bottle.leftovers


def test_a_folder_that_is_not_there_is_refused(bottle: Bottle, tmp_path: Path) -> None:
    bottle("pack", tmp_path / "nowhere").failed(101, "no folder", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("command", ["pack", "run"])
def test_a_failing_step_is_reported_in_the_builds_own_words(
    bottle: Bottle, context: Context, command: str
) -> None:
    done = bottle(command, context("RUN echo it-went-wrong-here >&2; exit 3", "RUN echo never"))
    done.failed(104, "did not build", "it-went-wrong-here", "3")
    assert not bottle.leftovers


@pytest.mark.parametrize("user", ["ghost", "1000:ghosts", "4294967290"])
def test_a_user_that_the_image_lacks_is_refused_with_a_next_step(
    bottle: Bottle, context: Context, user: str
) -> None:
    done = bottle("run", "-q", "--backend=docker", context(f"USER {user}"), "--", "true")
    assert done.code == 111, done
    assert done.err.endswith("Next: correct USER in the Dockerfile, or name another with --user\n"), done
    assert not bottle.leftovers


def test_an_image_that_is_not_there_is_refused(bottle: Bottle) -> None:
    bottle("pack", "--image", "bot-bottle-test-nowhere:1").failed(
        103, "no such image", "bot-bottle-test-nowhere"
    )


# --- what is needed to build and boot


def test_a_machine_without_an_engine_is_told_what_to_install(bottle: Bottle, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    bottle("pack", tmp_path, env=NO_ENGINE).failed(103, "docker", "podman", "install")
    bottle("pack", "--engine", "podman", tmp_path, env=NO_ENGINE).failed(103, "podman")
    assert not bottle.leftovers


def test_an_engine_that_does_not_answer_is_named_with_its_address(bottle: Bottle, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    silent = {"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}
    done = bottle("pack", "--engine", "docker", tmp_path, env=silent)
    done.failed(103, "docker does not answer", f"{tmp_path}/nobody.sock")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (None, "does not run"),
        ("echo smolvm, version 0.0.9", "another product"),
        ("echo smolvm 1.2.3", "1.2.3"),
    ],
)
def test_a_smolvm_that_cannot_be_used_is_refused_with_its_path(
    bottle: Bottle, saved: Path, tmp_path: Path, script: str | None, told: str
) -> None:
    path = tmp_path / "bin" / "smolvm"
    if script is not None:
        program(path.parent, "smolvm", script)
    done = bottle("run", "--archive", saved, "--", "true", env={"BOT_BOTTLE_SMOLVM": str(path)})
    assert "Traceback" not in done.err
    assert done.code == 109, done
    assert told in done.err
    assert str(path) in done.err
    assert not bottle.leftovers


# --- archives


def test_an_archive_that_is_not_there_is_refused(bottle: Bottle, tmp_path: Path) -> None:
    bottle("pack", "--archive", tmp_path / "nothing.tar").failed(101, "no such archive", "nothing.tar")


@pytest.mark.parametrize(
    "content", [b"", b"no archive at all" * 1000, bytes(1 << 20), b"\x1f\x8b" + bytes(600)]
)
def test_a_file_that_is_no_archive_is_refused(bottle: Bottle, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(content)
    bottle("pack", "--archive", path).failed(105, str(path))
    assert not bottle.leftovers


def places(size: int, anywhere: int) -> list[int]:
    """Places to cut at: the first and last blocks, and anywhere."""
    somewhere = random.Random(size).sample(range(1024, size - 20_480), anywhere)  # noqa: S311
    edges = [1, 511, 512] if anywhere > 1 else []
    return [*edges, 513, *somewhere, size - 20_480]


@pytest.mark.parametrize("anywhere", [1, pytest.param(6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["docker-save", "docker-save-new", "oci-tar"])
def test_an_archive_cut_short_anywhere_is_refused(
    bottle: Bottle, saved: Path, tmp_path: Path, form: Form, anywhere: int
) -> None:
    whole = archive(saved, form, tmp_path)
    data = whole.read_bytes()
    cut = tmp_path / "cut.tar"
    for place in places(len(data), anywhere):
        cut.write_bytes(data[:place])
        bottle("pack", "--archive", cut).failed(105, str(cut))
    assert not bottle.leftovers
    assert bottle.artifacts == []


@pytest.mark.parametrize(
    "compress",
    [
        pytest.param(gzip.compress, marks=pytest.mark.slow),
        zstandard.compress,
        pytest.param(bytes, marks=pytest.mark.slow),
    ],
    ids=["gzip", "zstd", "plain"],
)
def test_a_layer_larger_than_allowed_is_refused(
    bottle: Bottle, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    plain = layer([file(f"zeros-{number}", bytes(1_000_000)) for number in range(6)])
    path = tmp_path / "bomb.tar"
    blobs = {**saved_files([plain]), f"{0:064x}/layer.tar": compress(plain)}
    path.write_bytes(files_tar(blobs))
    source = ("--archive", path)
    bottle("pack", "--max-image-size", "2m", *source).failed(105, "more than 2.1 MB", "--max-image-size")
    bottle("pack", *source, env={"BOT_BOTTLE_MAX_IMAGE_SIZE": "5m"}).failed(105, "larger than allowed")
    bottle("run", "--plan", "--max-image-size", "1000", *source).failed(105, "more than 1.0 kB")
    assert not bottle.leftovers
    assert bottle.artifacts == []
    assert bottle("pack", "--max-image-size", "7m", *source).path.is_file()


def test_holes_count_for_the_size_of_an_image(bottle: Bottle, tmp_path: Path) -> None:
    records = {"GNU.sparse.realsize": str(1 << 30), "GNU.sparse.map": "0,1"}
    path = tmp_path / "sparse.tar"
    path.write_bytes(files_tar(saved_files([layer([file("huge", pax_headers=records)])])))
    bottle("pack", "--max-image-size", "1023m", "--archive", path).failed(105, "larger than allowed")


@pytest.mark.parametrize("size", ["", "0", "-1", "many", "1t", "9" * 40])
def test_an_invalid_image_size_is_refused(bottle: Bottle, tmp_path: Path, size: str) -> None:
    bottle("pack", "--max-image-size", size, tmp_path).failed(101, "invalid image size")


# --- the cache


def test_an_artifact_with_a_flipped_byte_is_reported_and_made_again(bottle: Bottle, saved: Path) -> None:
    path = bottle("pack", "--archive", saved).path
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(len(whole) // 2)
        file.write(bytes([whole[len(whole) // 2] ^ 1]))
    told = bottle("cache", "verify")
    assert told.code == 114
    assert path.name in told.out
    again = bottle("pack", "--json", "--archive", saved)
    assert json.loads(again.line)["cache"] == "miss"
    assert "damaged" in again.err
    assert path.read_bytes() == whole
    assert bottle("cache", "verify").code == 0
    assert not bottle.leftovers


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with very little room."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "bot-bottle-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(
    ("size", "transport"),
    [
        ("300k", "direct"),
        ("1m", "save"),
        ("6m", "direct"),
        ("12m", "save"),
        *(pytest.param(size, "save", marks=pytest.mark.slow) for size in ("300k", "6m", "16m")),
        *(pytest.param(size, "direct", marks=pytest.mark.slow) for size in ("1m", "12m", "16m")),
    ],
)
def test_a_pack_on_a_full_disk_is_explained_and_leaves_nothing(
    bottle: Bottle, context: Context, small_disk: Path, size: str, transport: str
) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", small_disk], check=True)
    folder = context("COPY large /large", large=os.urandom(5_000_000))
    there = Bottle(small_disk / "cache", bottle.changes)
    done = there("pack", "--transport", transport, folder)
    done.failed(108, "BOT_BOTTLE_CACHE_DIR")
    assert str(small_disk) in done.err
    assert not there.leftovers
    assert there.artifacts == []


def test_a_disk_needs_room_for_the_artifact_and_no_more(
    bottle: Bottle, context: Context, small_disk: Path
) -> None:
    folder = context("COPY large /large", large=os.urandom(5_000_000))
    size = bottle("pack", folder).path.stat().st_size
    subprocess.run(["mount", "-o", f"remount,size={size + (1 << 20)}", small_disk], check=True)
    there = Bottle(small_disk / "cache", bottle.changes)
    assert there("pack", folder).path.stat().st_size == size


def test_output_on_a_full_disk_leaves_no_file(bottle: Bottle, saved: Path, small_disk: Path) -> None:
    done = bottle("pack", "--archive", saved, "-o", small_disk / "out.smolmachine")
    done.failed(108)
    assert list(small_disk.iterdir()) == []
    assert not bottle.leftovers


def test_a_cache_that_cannot_be_written_is_named(bottle: Bottle, saved: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        there = Bottle(small_disk / "cache", bottle.changes)
        there("pack", "--archive", saved).failed(107, str(small_disk), "BOT_BOTTLE_CACHE_DIR")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)

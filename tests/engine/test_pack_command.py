"""`bottle pack`: every kind of source becomes an artifact, and becomes it once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bot_bottle import ephemeral_registry
from tests.engine.conftest import Context
from tests.support.bottle import Bottle, end, wait_until
from tests.support.engines import LABEL, OWNER, Docker, Podman, call
from tests.support.images import busybox_context
from tests.support.layouts import FORMS, Form, archive
from tests.support.smolmachines import manifest_of, root_of

LARGE = 30_000_000  # bytes that do not compress: a pack of them takes a while


def pack_json(bottle: Bottle, *args: str | Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(bottle("pack", "--json", *args).line)
    return described


def sha256(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


# --- sources ---


def test_a_dockerfile_becomes_an_artifact(bottle: Bottle, context: Context) -> None:
    folder = context("COPY file /file", "RUN echo made > /made", "USER agent", 'CMD ["/made"]', file=b"given")
    done = bottle("pack", folder)
    assert done.path.is_relative_to(bottle.cache)
    assert done.path.stat().st_mode & 0o777 == 0o600
    root = root_of(done.path)
    assert (root["file"], root["made"]) == (b"given", b"made\n")
    manifest = manifest_of(done.path)
    assert (manifest["user"], manifest["cmd"], manifest["network"]) == ("agent", ["/made"], False)
    stages = [line.split()[0] for line in done.err.splitlines()]  # a slow one is shown more than once
    assert list(dict.fromkeys(stages)) == ["build", "export", "pack"]
    assert not bottle.leftovers


def test_the_folder_is_the_current_one_unless_another_is_named(bottle: Bottle, context: Context) -> None:
    folder = context()
    assert (
        bottle("pack", cwd=folder).path == bottle("pack", folder).path == bottle("pack", ".", cwd=folder).path
    )


def test_options_of_a_build_are_passed_to_the_engine(bottle: Bottle, context: Context) -> None:
    folder = context()
    words = (folder / "Dockerfile").read_text().splitlines()
    text = [f"{words[0]} AS first", words[1], "ARG WHO", "RUN echo $WHO > /who", "FROM first", "RUN rm /who"]
    (folder / "other").write_text("\n".join(text))
    args = ("-f", folder / "other", "--target", "first", "--build-arg", "WHO")
    done = bottle("pack", "-v", *args, folder, env={"WHO": "a secret value"})
    assert root_of(done.path)["who"] == b"a secret value\n"
    assert "a secret value" not in done.err


def test_an_image_of_the_engine_is_packed_once_by_name_or_id(
    bottle: Bottle, docker: Docker, image: str
) -> None:
    tag = f"bot-bottle-test-pack:{OWNER}"
    docker.docker("tag", image, tag)
    by_tag, by_id = pack_json(bottle, "--image", tag), pack_json(bottle, "--image", image)
    assert by_tag["image_id"] == by_id["image_id"] == image
    assert (by_tag["cache"], by_id["cache"]) == ("miss", "hit")
    root = root_of(Path(by_id["path"]))
    assert root["one"] == b"one\n"
    assert "two" not in root


@pytest.mark.parametrize("form", FORMS)
def test_an_image_gives_the_same_bytes_from_every_archive(
    bottle: Bottle, image: str, image_config: str, saved: Path, tmp_path: Path, form: Form
) -> None:
    wanted = pack_json(Bottle(tmp_path / "other-cache", bottle.changes), "--image", image)
    done = pack_json(bottle, "--archive", archive(saved, form, tmp_path))
    assert done["cache"] == "miss"
    assert (done["digest"], done["key"]) == (wanted["digest"], wanted["key"])
    assert (done["image_id"], wanted["image_id"]) == (image_config, image)


def test_an_archive_needs_no_engine(bottle: Bottle, saved: Path) -> None:
    assert bottle("pack", "--archive", saved, env={"PATH": "/nowhere"}).path


@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
def test_an_archive_that_skopeo_writes_is_packed(
    bottle: Bottle, docker: Docker, saved: Path, tmp_path: Path, transport: str
) -> None:
    copy = tmp_path / "copy"
    call(
        ["skopeo", "copy", "--insecure-policy", f"docker-archive:{saved}", f"{transport}:{copy}:a:b"],
        docker.env,
    )
    done = bottle("pack", "--archive", copy)
    assert root_of(done.path)["one"] == b"one\n"
    assert manifest_of(done.path)["workdir"] == "/srv"


# --- podman ---


@pytest.mark.parametrize("how", ["option", "environment", "the one that answers"])
def test_podman_builds_and_packs_as_docker_does(podman_bottle: Bottle, tmp_path: Path, how: str) -> None:
    folder = busybox_context(
        tmp_path / "context", "FROM scratch\nCOPY rootfs /\nRUN echo made > /made\nUSER agent\n"
    )
    args = ("--engine", "podman") if how == "option" else ()
    env = {"BOT_BOTTLE_ENGINE": "podman"} if how == "environment" else {}
    done = podman_bottle("pack", *args, folder, env=env)
    assert root_of(done.path)["made"] == b"made\n"
    assert manifest_of(done.path)["user"] == "agent"
    assert "with podman" in done.err
    again = podman_bottle("pack", "--json", *args, folder, env=env)
    assert json.loads(again.line)["cache"] == "hit"
    assert not podman_bottle.leftovers


def test_a_containerfile_is_packed_by_each_engine(
    podman_bottle: Bottle, bottle: Bottle, tmp_path: Path
) -> None:
    folder = busybox_context(tmp_path / "context", "FROM scratch\nCOPY rootfs /\n")
    (folder / "Dockerfile").rename(folder / "Containerfile")
    assert podman_bottle("pack", folder).path
    assert bottle("pack", "--engine", "docker", folder).path


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
def test_an_archive_that_podman_saves_gives_the_same_artifact(
    podman_bottle: Bottle, podman: Podman, tmp_path: Path, form: str
) -> None:
    image = podman.build(busybox_context(tmp_path / "context"))
    podman.podman("save", "--format", form, "--output", str(tmp_path / "saved"), image)
    from_archive = pack_json(podman_bottle, "--archive", tmp_path / "saved")
    other = Bottle(tmp_path / "other-cache", podman_bottle.changes)
    from_engine = pack_json(other, "--engine", "podman", "--image", image)
    assert from_archive["digest"] == from_engine["digest"]
    assert from_archive["image_id"] == f"sha256:{image.removeprefix('sha256:')}"


def test_an_unknown_engine_is_refused(bottle: Bottle, context: Context) -> None:
    bottle("pack", context(), env={"BOT_BOTTLE_ENGINE": "lxc"}).failed(2, "lxc", "docker", "podman")


# --- what is printed ---


def test_pack_json_describes_the_artifact(bottle: Bottle, context: Context) -> None:
    folder = context("RUN echo a > /a")
    first, again = pack_json(bottle, folder), pack_json(bottle, folder)
    path = Path(first["path"])
    assert first["digest"] == sha256(path)
    assert first["size"] == path.stat().st_size
    assert first["key"] == path.name
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", first["image_id"])
    config = json.loads(bottle("cache", "why", "--json", folder).line)["config_digest"]
    assert path.name.startswith(config.removeprefix("sha256:")[:16])
    assert first["packer"] == "native"
    assert first["losses"] == []
    assert (first["cache"], again["cache"]) == ("miss", "hit")
    assert list(first["seconds"]) == ["build", "export", "pack"]
    assert all(seconds > 0 for seconds in first["seconds"].values())
    assert list(again["seconds"]) == ["build"]
    same = ("path", "digest", "size", "key", "image_id")
    assert [first[name] for name in same] == [again[name] for name in same]


def test_files_that_a_microvm_cannot_hold_are_listed(bottle: Bottle, context: Context) -> None:
    done = bottle("pack", "--json", context("RUN mkfifo /pipe"))
    assert [(loss["count"], loss["examples"]) for loss in json.loads(done.line)["losses"]] == [(1, ["/pipe"])]
    assert "/pipe" in done.err


def test_quiet_prints_nothing_and_verbose_prints_every_command(bottle: Bottle, context: Context) -> None:
    folder = context()
    assert bottle("pack", "-q", folder).err == ""
    shown = bottle("pack", "-v", "--no-cache", folder).err
    assert re.search(r"^\+ \S*docker build .*--no-cache", shown, re.M)


def test_an_unchanged_rebuild_hits_and_a_changed_dockerfile_misses(bottle: Bottle, context: Context) -> None:
    first, again = bottle("pack", context("RUN echo a > /a")), bottle("pack", context("RUN echo a > /a"))
    changed = bottle("pack", context("RUN echo b > /a"))
    assert first.path == again.path != changed.path
    assert "export" not in again.err
    assert f"cached  {again.path.name}" in again.err
    assert root_of(changed.path)["a"] == b"b\n"
    assert len(bottle.artifacts) == 2


# --- an image that a configuration names ---


@pytest.mark.parametrize("name", [pytest.param("bottle.toml", marks=pytest.mark.slow), ".devcontainer.json"])
def test_an_image_that_is_named_is_pulled_once(
    bottle: Bottle, docker: Docker, context: Context, tmp_path: Path, name: str
) -> None:
    image = docker.build(context("RUN echo named > /named"))
    with ephemeral_registry(push=True) as registry:
        target = registry.target("named")
        docker.docker("tag", image, target)
        docker.docker("push", target)
        docker.docker("rmi", target)
        text = f'[image]\nname = "{target}"\n' if name == "bottle.toml" else json.dumps({"image": target})
        (tmp_path / "project").mkdir()
        (tmp_path / "project" / name).write_text(text)
        first = bottle("pack", tmp_path / "project")
        again = bottle("pack", tmp_path / "project")
        newer = bottle("pack", "--pull", tmp_path / "project")
    docker.docker("rmi", target)
    assert first.path == again.path == newer.path
    assert "pull" in first.err
    assert "pull" not in again.err
    assert "pull" in newer.err
    gone = bottle("pack", tmp_path / "project")
    gone.failed(103, target)


# --- the copy ---


def test_output_is_a_copy(bottle: Bottle, saved: Path, tmp_path: Path) -> None:
    done = bottle("pack", "--archive", saved, "-o", "out.smolmachine", cwd=tmp_path)
    assert done.path == tmp_path / "out.smolmachine"
    [cached] = bottle.artifacts
    assert done.path.read_bytes() == cached.read_bytes()
    assert not done.path.samefile(cached)
    umask = os.umask(0)
    os.umask(umask)
    assert done.path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.smolmachine"]


def test_output_replaces_in_one_step(bottle: Bottle, saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("what was there")
    with out.open() as reader:  # whoever has the old file open keeps it whole
        assert bottle("pack", "--archive", saved, "-o", out).path == out
        assert reader.read() == "what was there"
    assert out.read_bytes() == bottle.artifacts[0].read_bytes()


def test_output_through_a_link_replaces_its_file(bottle: Bottle, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "out").symlink_to("real")
    assert bottle("pack", "--archive", saved, "-o", tmp_path / "out").path == tmp_path / "out"
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "real").read_bytes() == bottle.artifacts[0].read_bytes()


def test_output_is_written_to_a_device_and_to_standard_output(
    bottle: Bottle, saved: Path, tmp_path: Path
) -> None:
    null = tmp_path / "null"
    os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    assert bottle("pack", "--archive", saved, "-o", null).line == str(null)
    assert stat.S_ISCHR(null.lstat().st_mode)
    out = tmp_path / "out"
    with out.open("wb") as file:
        argv = [sys.executable, "-m", "bot_bottle", "pack", "--archive", str(saved), "-o", "/dev/stdout"]
        subprocess.run(argv, check=True, stdout=file, env=bottle.env(), timeout=300)
    assert out.read_bytes() == bottle.artifacts[0].read_bytes()


def test_output_that_cannot_be_is_refused_before_anything_is_built(bottle: Bottle, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    bottle("pack", tmp_path / "nothing", "-o", tmp_path / "folder").failed(2, "it is a directory")
    done = bottle("pack", tmp_path / "nothing", "--json", "-o", "/dev/stdout")
    done.failed(2, "both write to standard output")


@pytest.mark.parametrize(
    ("place", "code"), [("missing/out", 106), ("file/out", 106), ("folder", 2), ("/proc/out", 106)]
)
def test_output_that_cannot_be_written_is_refused_and_leaves_nothing(
    bottle: Bottle, saved: Path, tmp_path: Path, place: str, code: int
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    done = bottle("pack", "-q", "--archive", saved, "-o", tmp_path / place)
    done.failed(code, place.partition("/")[0])
    assert not bottle.leftovers
    assert {path.name for path in tmp_path.iterdir()} <= {"bot-bottle-cache", "file", "folder"}


# --- two at once ---


def test_two_packs_at_once_make_one_artifact(bottle: Bottle, context: Context) -> None:
    folder = context("COPY large /large", large=os.urandom(LARGE))
    image = docker_id(bottle, folder)
    first = bottle.start("pack", "--json", "--image", image)
    wait_until(lambda: list(bottle.cache.glob("smolmachines/*.tmp")))
    first.send_signal(signal.SIGSTOP)  # or it would be through before the second one asks
    second = bottle.start("pack", "--json", "--image", image)
    assert second.stderr is not None
    waiting = second.stderr.readline()
    first.send_signal(signal.SIGCONT)
    one, two = json.loads(end(first).line), json.loads(end(second).line)
    assert (one["cache"], two["cache"]) == ("miss", "hit")
    assert one["path"] == two["path"]
    assert waiting == f"waiting for another bot-bottle that makes {one['key']}\n"
    assert "pack" not in two["seconds"]
    assert len(bottle.artifacts) == 1
    assert not bottle.leftovers


def test_a_pack_that_waits_takes_over_from_one_that_is_killed(bottle: Bottle, context: Context) -> None:
    folder = context("COPY large /large", large=os.urandom(LARGE))
    image = docker_id(bottle, folder)
    first = bottle.start("pack", "-v", "--image", image)
    wait_until(lambda: list(bottle.cache.glob("smolmachines/*.tmp")))
    first.send_signal(signal.SIGSTOP)  # or it would be through before the second one asks
    second = bottle.start("pack", "--json", "--image", image)
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    first.send_signal(signal.SIGKILL)
    assert json.loads(end(second).line)["cache"] == "miss"
    assert end(first).code == -signal.SIGKILL
    assert bottle("cache", "prune").code == 0
    assert not bottle.leftovers


def docker_id(bottle: Bottle, folder: Path) -> str:
    """Build a context's image by way of another cache, so that the artifact is still to be made."""
    other = Bottle(folder.with_name("other-cache"), bottle.changes)
    image: str = pack_json(other, folder)["image_id"]
    return image


def test_images_carry_the_label_of_these_tests(bottle: Bottle, docker: Docker, context: Context) -> None:
    """Or else they would fill the engine, run after run."""
    image = pack_json(bottle, context())["image_id"]
    config = json.loads(docker.docker("image", "inspect", image))[0]["Config"]
    assert config["Labels"][LABEL] == OWNER


def test_the_same_image_gives_the_same_bytes_whatever_is_around_it(
    bottle: Bottle, saved: Path, tmp_path: Path
) -> None:
    digests = set()
    for form, umask, zone in (("docker-save", 0o000, "UTC"), ("oci-tar", 0o077, "Asia/Tokyo")):
        there = Bottle(tmp_path / form, bottle.changes)
        before = os.umask(umask)
        try:
            source = archive(saved, form, tmp_path)  # type: ignore[arg-type]
            done = there("pack", "--json", "--archive", source, env={"TZ": zone, "LC_ALL": "C"})
        finally:
            os.umask(before)
        digests.add(json.loads(done.line)["digest"])
    assert len(digests) == 1


def test_source_date_epoch_is_when_the_artifact_was_made(bottle: Bottle, saved: Path) -> None:
    def made(epoch: str | None) -> Path:
        return bottle("pack", "--archive", saved, env={"SOURCE_DATE_EPOCH": epoch}).path

    assert manifest_of(made("1700000000"))["created"] == "2023-11-14T22:13:20Z"
    assert manifest_of(made(None)).get("created", "") == ""
    assert len({made("1700000000"), made("1700000001"), made(None)}) == 3
    bottle("pack", "--archive", saved, env={"SOURCE_DATE_EPOCH": "now"}).failed(2, "SOURCE_DATE_EPOCH")

"""`bottle registry` as a user runs it: its command, its end by any way, its neighbours, a full disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot_bottle.image.spec import Digest
from bot_bottle.registry.container import LABEL
from tests.support.bottle import Bottle
from tests.support.engines import OWNER, Docker, call
from tests.support.wire import Wire

NOBODY = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "env",
    "-i",
    "XDG_RUNTIME_DIR=/nonexistent",
)


@contextmanager
def serving(bottle: Bottle, *args: str | Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run a registry without a command; give its process and what it said."""
    with bottle.start("registry", "--json", *args) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate(timeout=20)
            yield process, json.loads(line)
        finally:
            process.terminate()


def wire_to(said: dict[str, Any]) -> Wire:
    return Wire(int(said["registry"].partition(":")[2]), said["prefix"])


# --- the command ---


def test_registry_serves_while_its_command_runs(bottle: Bottle, saved: Path, image: str) -> None:
    script = (
        "skopeo inspect --tls-verify=false --format '{{.Digest}}' docker://{ref};"
        "skopeo inspect --tls-verify=false --format '{{.Digest}}' docker://$BOT_BOTTLE_REF2;"
        "echo {ref} {ref2} {registry} {prefix}; env | grep ^BOT_BOTTLE_ | sort; exit 7"
    )
    done = bottle("registry", "-q", saved, image, "--", "sh", "-c", script)
    assert (done.code, done.err) == (7, "")
    first, second, places, *variables = done.out.splitlines()
    ref, ref2, registry, prefix = places.split()
    assert ref.startswith(f"{registry}/{prefix}/image@sha256:")
    assert (ref.partition("@")[2], ref2.partition("@")[2]) == (first, second)
    told = dict(line.split("=", 1) for line in variables)
    wanted = {"REF": ref, "REF1": ref, "REF2": ref2, "REGISTRY": registry, "PREFIX": prefix}
    assert {name: told[f"BOT_BOTTLE_{name}"] for name in wanted} == wanted
    assert not bottle.leftovers


@pytest.mark.parametrize("form", ["embedded", "container"])
def test_a_second_push_moves_no_layer(
    bottle: Bottle, docker: Docker, registry_image: str, image: str, form: str
) -> None:
    docker.docker("tag", image, f"bot-bottle-test-registry:{OWNER}")
    target = "{registry}/{prefix}/app"
    push = f"docker push {target}"
    script = f"docker tag {image} {target}; {push}; echo second; {push}; docker rmi {target}"
    done = bottle("registry", "-q", "--push", "--form", form, "--", "sh", "-c", script)
    assert done.code == 0, done
    first, _, second = done.out.partition("second\n")
    assert "Pushed" in first
    assert "Pushed" not in second
    assert "Layer already exists" in second
    assert not bottle.leftovers


def test_registry_json_lists_the_images_it_serves(bottle: Bottle, saved: Path) -> None:
    with serving(bottle, saved) as (process, said):
        [image] = said["images"]
        assert image["reference"] == f"{said['registry']}/{said['prefix']}/image@{image['digest']}"
        assert image["source"] == str(saved)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1].endswith("\n")
    assert process.returncode == 0
    assert not bottle.leftovers


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "nothing to serve"),
        (["./nothing.tar"], "no such archive: ./nothing.tar"),
        (["--push", "--", "echo", "{ref}"], "unknown placeholder {ref}"),
        (["--push", "--json", "--", "true"], "--json"),
    ],
)
def test_registry_options_that_make_no_sense_are_refused(bottle: Bottle, args: list[str], words: str) -> None:
    bottle("registry", *args).failed(2, words)
    assert not bottle.leftovers


@pytest.mark.parametrize("form", ["embedded", "container"])
def test_what_a_killed_registry_left_is_removed_by_the_next_command(
    bottle: Bottle, docker: Docker, registry_image: str, saved: Path, form: str
) -> None:
    with serving(bottle, "--push", "--form", form) as (process, said):
        process.kill()
        process.wait(20)
    assert len(bottle.scraps()) == 1
    running = docker.docker("ps", "-q", "--filter", f"label={LABEL}").split()
    assert len(running) == (1 if form == "container" else 0)
    assert bottle("pack", "--archive", saved).code == 0
    assert not bottle.leftovers
    assert docker.docker("ps", "-aq", "--filter", f"label={LABEL}") == b""
    with pytest.raises(ConnectionError):
        wire_to(said).ask("GET", "/v2/")


# --- another user of the host ---


@pytest.fixture
def open_bottle(docker: Docker) -> Iterator[Bottle]:
    """Run `bottle` with its cache where every user may look: only its own modes protect it."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-test-") as name:
        Path(name).chmod(0o755)
        yield Bottle(Path(name) / "cache", docker.variables)


def test_another_user_cannot_find_pull_or_push(open_bottle: Bottle, saved: Path) -> None:
    assert os.geteuid() == 0, "only root can become another user"
    with serving(open_bottle, "--push", saved) as (process, said):
        registry, prefix, reference = said["registry"], said["prefix"], said["images"][0]["reference"]
        digest = said["images"][0]["digest"]
        # whoever has the reference can pull: the prefix is all that keeps others out
        assert inspect(reference).returncode == 0
        own = [f"/proc/{process.pid}/{each}" for each in ("cmdline", "environ", "fd", "task")]
        found = nobody("grep", "-rlsF", "-e", prefix, "-e", digest, open_bottle.cache, "/proc/net", *own)
        assert found.stdout == b""
        for ref in (f"image@{digest}", f"{'0' * 32}/image@{digest}", "image"):
            refused = inspect(f"{registry}/{ref}")
            assert refused.returncode == 1
            assert b"name unknown" in refused.stderr
        places = ("--src-tls-verify=false", "--dest-tls-verify=false", f"docker://{reference}")
        pushed = nobody("skopeo", "copy", *places, f"docker://{registry}/image")
        assert pushed.returncode == 1
        assert b"name unknown" in pushed.stderr


def nobody(*argv: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run a program as another user of the host."""
    return subprocess.run([*NOBODY, *map(str, argv)], capture_output=True, timeout=60)


def inspect(ref: str) -> subprocess.CompletedProcess[bytes]:
    return nobody("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{ref}")


# --- a full disk ---


@pytest.fixture
def small_bottle(docker: Docker, tmp_path: Path) -> Iterator[Bottle]:
    """Run `bottle` with its cache on a file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    call(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], dict(os.environ))
    try:
        yield Bottle(place / "cache", docker.variables)
    finally:
        call(["umount", str(place)], dict(os.environ))


@pytest.fixture(scope="module")
def large_image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of 8 MB that no compression makes smaller."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "file").write_bytes(os.urandom(8 << 20))
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY file /file\n")
    return docker.build(folder, "--tag", f"bot-bottle-test-large:{OWNER}")


def used(bottle: Bottle) -> int:
    status = os.statvfs(bottle.cache)
    return (status.f_blocks - status.f_bfree) * status.f_bsize


def test_a_full_disk_is_reported_to_docker_at_once(small_bottle: Bottle, large_image: str) -> None:
    target = "{registry}/{prefix}/app"
    script = f"docker tag {large_image} {target}; docker push {target} 2>&1; echo $?; docker rmi {target}"
    done = small_bottle("registry", "-q", "--push", "--", "sh", "-c", script)
    # docker 28 repeats what the registry says, older ones the status of its answer
    assert re.search(r"(507 no space left on device|: the registry's disk is full)\n1\n", done.out), done
    assert "Retrying" not in done.out


def test_a_blob_that_does_not_fit_leaves_nothing_on_the_disk(small_bottle: Bottle) -> None:
    with serving(small_bottle, "--push") as (_, said), wire_to(said) as wire:
        small = wire.push_blob(b"small")
        before = used(small_bottle)
        large = bytes(8 << 20)
        single = f"app/blobs/uploads/?digest={Digest.of(large)}"
        for method, path in [
            ("POST", single),
            ("PATCH", wire.begin()),
            ("PUT", f"{wire.begin()}?digest={small}"),
        ]:
            answer = wire.ask(method, path, large)
            assert (answer.status, answer.json["errors"][0]["message"]) == (
                507,
                "the registry's disk is full",
            )
            assert used(small_bottle) <= before + (1 << 16)
        wire.push_blob(bytes(1 << 20))
        assert wire.ask("GET", f"app/blobs/{small}").body == b"small"


def test_an_image_that_does_not_fit_is_refused(small_bottle: Bottle, large_image: str) -> None:
    done = small_bottle("registry", "-q", large_image)
    done.failed(108, "does not fit", "Next: ")
    assert not small_bottle.leftovers

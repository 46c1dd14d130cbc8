"""A canary: the value of a secret, which a container's command has, is nowhere else. Scrub on real images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import Context
from tests.support.bottle import Bottle, wait_until
from tests.support.callers import caller
from tests.support.canary import Canary, holders
from tests.support.engines import Docker

TELL = 'printf %s "$KEY" | sha256sum; echo there'
ENDS = {
    "succeeds": ("exit 0", 0),
    "fails": ("exit 3", 3),
    "crashes": ("kill -SEGV $$", 139),
    "is killed": ("sleep 600", -signal.SIGKILL),
}


@pytest.fixture(autouse=True)
def nothing_left(bottle: Bottle) -> Iterator[None]:
    yield
    assert bottle.leftovers == []


def inspected(docker: Docker) -> bytes:
    """What the engine shows of every container."""
    found = docker.docker("ps", "--all", "--quiet", "--no-trunc").decode().split()
    return docker.docker("inspect", *found) if found else b""


@pytest.mark.parametrize("end", ENDS)
def test_a_secret_is_nowhere_but_in_the_command_during_the_run_and_after(
    bottle: Bottle, docker: Docker, image: str, canary: Canary, tmp_path: Path, end: str
) -> None:
    script, status = ENDS[end]
    process = bottle.start(
        "run", "-v", "--backend=docker", "--image", image, f"--secret=id=KEY,src={canary.path}",
        "--", "sh", "-c", f"{TELL}; read -r _; {script}", stdin=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().split()[:1] == [canary.sha256.decode()], process.communicate()
    seen = inspected(docker)
    assert b"sha256sum" in seen
    assert canary.value not in seen
    # the command has it, and so have its own children, which are processes of this machine
    assert [line for line in holders(canary.value) if not line.endswith((": sh", ": sleep"))] == []
    if end == "is killed":
        process.kill()
        process.wait(60)
        assert bottle("cache", "prune").code == 0
    _, err = process.communicate("go on\n", timeout=60)
    assert process.returncode == status
    assert canary.value.decode() not in err
    assert holders(canary.value) == []
    assert canary.places(tmp_path) == []
    receipt = json.loads(bottle("show", "--json").out)
    assert receipt["plan"]["secrets"] == [{"name": "KEY", "kind": "file", "hosts": []}]


def test_a_variable_that_holds_a_secret_is_in_no_environment_but_ours(
    bottle: Bottle, image: str, canary: Canary
) -> None:
    process = bottle.start(
        "run", "--backend=docker", "--image", image, "--secret=id=KEY,env=MINE", "--", "sh", "-c",
        f'{TELL}; echo "[$MINE]"; read -r _', env={"MINE": canary.path.read_text()}, stdin=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    shown = [process.stdout.readline().split()[0] for _ in range(3)]
    assert shown == [canary.sha256.decode(), "there", "[]"]
    ours = f"/proc/{process.pid}/environ: "
    found = [line for line in holders(canary.value) if not line.endswith((": sh", ": sleep"))]
    assert [line for line in found if not line.startswith(ours)] == []
    process.communicate("go on\n", timeout=60)
    assert process.returncode == 0


def test_a_keychain_is_asked_once(bottle: Bottle, image: str, canary: Canary, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "secret-tool"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho $* >> {tmp_path}/asked\ncat {canary.path}\n")
    tool.chmod(0o755)
    done = bottle(
        "run", "--backend=docker", "--image", image, "--secret=id=KEY,keychain=git/me",
        "--", "sh", "-c", TELL, env={"PATH": f"{tool.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.code, done.out.split()[:1]) == (0, [canary.sha256.decode()])
    assert (tmp_path / "asked").read_text() == "lookup service git username me\n"


def test_a_secret_of_a_bottle_in_the_background_is_in_no_file(
    bottle: Bottle, image: str, canary: Canary, tmp_path: Path
) -> None:
    started = bottle.start(
        "run", "-d", "--name=blue", "--backend=docker", "--image", image,
        f"--secret=id=KEY,src={canary.path}", "--", "sh", "-c", f"{TELL}; sleep 600",
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "blue\n"
    wait_until(lambda: "there" in bottle("logs", "blue").out, pause=0.2)
    assert canary.sha256.decode() in bottle("logs", "blue").out
    beside = bottle("exec", "blue", "--", "sh", "-c", 'echo "[$KEY]"')
    assert beside.out == "[]\n"
    assert bottle("stop", "--time=0", "blue").code == 0
    started.communicate(timeout=60)
    assert canary.places(tmp_path) == []


def test_each_bottle_of_a_fan_has_the_secret(docker: Docker, git_image: str, canary: Canary) -> None:
    with caller(0, docker) as who:
        done = who.bottle(
            "fan", "2", "--name=try", "--backend=docker", "--image", git_image, "-m", "256m",
            "--secret=id=KEY,env=MINE", "--", "sh", "-c", f"[ -z $MINE ] && {TELL}",
            cwd=who.repo().top, env={"MINE": canary.path.read_text()},
        )  # fmt: skip
        assert done.code == 0, done
        for name in ("try-1", "try-2"):
            assert who.bottle("logs", name).out.split()[0] == canary.sha256.decode()
        assert canary.places(who.folder) == []


def test_a_missing_secret_is_named_before_anything_is_built(bottle: Bottle, context: Context) -> None:
    folder = context("RUN false")
    for how in ("--backend=docker", "--backend=smolmachines", "--twin"):
        done = bottle("run", how, "--secret=id=KEY,src=/missing", folder, "--", "true")
        assert done.code == 121, done
        assert "the secret KEY cannot be read from /missing" in done.err


def test_scan_finds_what_the_dockerfile_deleted_and_pack_warns_of_what_it_left(
    bottle: Bottle, docker: Docker, context: Context, canary: Canary, tmp_path: Path
) -> None:
    token = f"ghp_{canary.value.decode()}aZ9kQ2"
    assert len(token) == 40
    folder = context(
        "COPY token .npmrc /app/", "RUN rm /app/token", "ENV API_KEY=" + token,
        **{"token": f"x\n{token}\n".encode(), ".npmrc": f"//r/:_authToken={token}\n".encode()},
    )  # fmt: skip
    image = docker.build(folder)
    done = bottle("scan", "-q", image)
    assert done.code == 122, done
    for place in ("ENV API_KEY: a variable named", "app/token:2: GitHub Token", "app/.npmrc:1: credentials"):
        assert place in done.out
    packed = bottle("pack", "-q", "--image", image)
    assert "warning: secrets seem to be in the artifact: ENV API_KEY" in packed.err
    of_artifact = bottle("scan", "--json", packed.path)
    found = {each["path"] for each in json.loads(of_artifact.out)["findings"]}
    assert found == {"ENV API_KEY", "app/.npmrc"}
    assert token not in done.out + done.err + packed.err + of_artifact.out + of_artifact.err


def test_scan_finds_nothing_in_a_plain_image(bottle: Bottle, image: str) -> None:
    done = bottle("scan", image)
    assert (done.code, done.out) == (0, f"{image}: nothing looks like a secret\n"), done

"""A bottle as a hardened container: the suite of every backend, its walls, its signals, and nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.support.backend_suite import Attach, Ended, Suite
from tests.support.bottle import PROGRAM, Bottle, wait_until
from tests.support.engine_matrix import PODMAN, Case
from tests.support.engines import Docker, Podman
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context
from tests.support.terminals import interrupt

pytestmark = [pytest.mark.one_client, pytest.mark.one_store, pytest.mark.others_slow]

INITS = {"docker": ("docker-init",), PODMAN: ("podman-init", "catatonit")}
LOST_OUTPUT = {"docker": 1, PODMAN: 125}  # the status of the engine's client that could not write it
WALLS = """
ls /sys/class/net; cat /proc/net/route | wc -l
grep -E "^(CapEff|CapBnd|NoNewPrivs|Seccomp):" /proc/self/status | tr -d "\\t"
cat /proc/1/comm
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build context of the suite's image."""
    return busybox_context(tmp_path_factory.mktemp("suite"), BOTTLE_DOCKERFILE)


@pytest.fixture(scope="module")
def built() -> dict[str, str]:
    """The suite's image in each engine in which it was built."""
    return {}


@pytest.fixture
def bottle_image(containers: Docker | Podman, engine_case: Case, built: dict[str, str], folder: Path) -> str:
    """The image of the suite."""
    name = str(engine_case)
    if name not in built:
        built[name] = containers.build(folder)
    return built[name]


@pytest.fixture
def bottle(containers_bottle: Bottle) -> Bottle:
    """Run `bottle` on each engine in turn."""
    return containers_bottle


@pytest.fixture
def attach(bottle: Bottle, bottle_image: str) -> Attach:
    """Run a command in a container of its own."""

    def attached(*command: str, stdin: bytes = b"", **changes: Any) -> Ended:
        options = [f"--{name}={changes[name]}" for name in ("user", "workdir") if name in changes]
        options += [f"--env={name}" for name in changes.get("env", {})]
        argv = [str(PROGRAM), "run", "-q", "--backend=docker", "--image", bottle_image, *options]
        argv += ["--", *command] if command else []
        env = bottle.env(changes.get("env"))
        done = subprocess.run(argv, input=stdin, env=env, capture_output=True, timeout=60)
        return Ended(done.returncode, done.stdout, done.stderr)

    return attached


@pytest.fixture(autouse=True)
def nothing_left(bottle: Bottle, containers: Docker | Podman) -> Iterator[None]:
    """Whatever a test does, no container and no process stays."""
    listing = ("ps", "--all", "--quiet", "--filter=label=bot-bottle.bottle")
    before = containers.client(*listing)
    yield
    assert not bottle.leftovers
    assert containers.client(*listing) == before


class TestContainer(Suite):
    """What a container does as every backend does it."""


def test_a_container_has_no_network_and_seven_capabilities(attach: Attach, engine_case: Case) -> None:
    done = attach("sh", "-c", WALLS, user="0")
    *found, init = done.out.decode().split()
    assert found == [
        "lo",
        "1",
        "CapEff:00000000000000fb",
        "CapBnd:00000000000000fb",
        "NoNewPrivs:1",
        "Seccomp:2",
    ]
    assert init in INITS[engine_case.kind]


def test_values_of_variables_are_on_no_command_line(bottle: Bottle, bottle_image: str) -> None:
    secret = {"KEY": "a-secret-value", "LINES": "a-secret\nvalue"}
    process = bottle.start(
        "run", "-v", "--backend=docker", "--image", bottle_image, "-e", "KEY", "-e", "LINES",
        "--", "sh", "-c", "echo there; read -r _; echo $KEY", env=secret, stdin=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    shown = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            shown += path.read_bytes()
    out, err = process.communicate("go on\n", timeout=60)
    assert out == "a-secret-value\n"
    assert b"read -r" in shown
    assert b"a-secret" not in shown
    assert "a-secret" not in err


def started(bottle: Bottle, image: str, script: str) -> subprocess.Popen[str]:
    """A bottle whose command has said that it is there."""
    process = bottle.start("run", "-q", "--backend=docker", "--image", image, "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n", process.communicate()
    return process


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_passed_to_the_command(
    bottle: Bottle, bottle_image: str, signum: signal.Signals
) -> None:
    name = signum.name.removeprefix("SIG")
    process = started(
        bottle, bottle_image, f'trap "echo caught; exit 9" {name}; echo there; while :; do sleep 0.1; done'
    )
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (9, "caught\n"), err


def test_signals_that_the_caller_ignores_do_not_reach_the_command(bottle: Bottle, bottle_image: str) -> None:
    """As nohup has SIGHUP ignored, and a shell SIGINT by what it starts in the background."""
    ignoring = replace(bottle, prefix=("sh", "-c", "trap '' INT HUP; exec \"$@\"", "sh"))
    traps = 'trap "echo caught; exit 9" INT HUP; trap "echo ends; exit 8" TERM'
    process = started(ignoring, bottle_image, f"{traps}; echo there; while :; do sleep 0.1; done")
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (8, "ends\n"), err


def test_the_second_signal_ends_the_bottle(bottle: Bottle, bottle_image: str) -> None:
    process = started(
        bottle, bottle_image, 'trap "echo first" INT TERM; echo there; while :; do sleep 0.1; done'
    )
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err


def test_a_container_that_a_killed_bottle_left_is_removed_by_prune(
    bottle: Bottle, bottle_image: str, containers: Docker | Podman
) -> None:
    process = started(bottle, bottle_image, "echo there; while :; do sleep 1; done")
    process.kill()
    process.wait(30)
    assert containers.client("ps", "--quiet", "--filter=label=bot-bottle.bottle") != b""
    assert bottle("cache", "prune").code == 0
    process.communicate(timeout=30)  # the client that held its streams has ended
    wait_until(lambda: not bottle.leftovers)


def test_a_terminal_has_its_size_and_passes_every_key(bottle: Bottle, bottle_image: str) -> None:
    script = (
        "tty; until [ \"$(stty size)\" = '33 101' ]; do sleep 0.1; done; echo sized;"
        'printf "\\033[1mbold\\033[0m\\n"; read -r line; echo "got $line"; sh'
    )
    argv = ["run", "-q", "--backend=docker", "--image", bottle_image, "--", "sh", "-c", script]
    env: Any = bottle.env()
    child = pexpect.spawn(str(PROGRAM), argv, dimensions=(33, 101), timeout=30, encoding="utf-8", env=env)
    child.expect("/dev/pts/")
    child.expect("sized")
    child.expect("\x1b\\[1mbold")
    child.send("a line\r")
    child.expect("got a line")
    child.setwinsize(44, 133)
    child.send('until [ "$(stty size)" = \'44 133\' ]; do sleep 0.1; done; echo resi""zed\r')
    child.expect("resized")
    child.send('echo slee""ping; sleep 100\r')
    child.expect("sleeping")
    interrupt(child)
    child.send("\x10\x11echo and $((40 + 3))\r")  # what would detach a docker client
    child.expect("and 43")
    child.sendcontrol("d")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus is not None


def test_a_limit_that_is_not_in_force_is_refused(
    bottle: Bottle, bottle_image: str, tmp_path: Path, engine_case: Case
) -> None:
    """As an engine does whose kernel keeps no such limit: it warns, and drops it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / engine_case.kind
    real = subprocess.run(["which", program.name], capture_output=True, check=True, text=True).stdout.strip()
    program.write_text(
        '#!/bin/bash\nfor arg; do case $arg in --memory*) ;; *) kept+=("$arg") ;; esac; done\n'
        f'exec {real} "${{kept[@]}}"\n'
    )
    program.chmod(0o755)
    env = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = bottle("run", "-q", "--backend=docker", "--image", bottle_image, "--", "true", env=env)
    done.failed(119, "Memory not in force")


def test_the_images_health_check_does_not_run(
    bottle: Bottle, containers: Docker | Podman, engine_case: Case, tmp_path: Path
) -> None:
    """It would run before the isolation has been checked, and as often as it likes."""
    checked = f"{BOTTLE_DOCKERFILE}HEALTHCHECK --interval=1s CMD touch /tmp/health\n"
    options = ["--format=docker"] if engine_case.kind == PODMAN else []  # OCI images have none
    image = containers.build(busybox_context(tmp_path / "context", checked), *options)
    assert b"/tmp/health" in containers.client("image", "inspect", image)
    process = started(bottle, image, 'trap "exit 0" TERM; echo there; while :; do sleep 0.1; done')
    try:
        (found,) = containers.client("ps", "--quiet", "--filter=label=bot-bottle.bottle").split()
        (facts,) = json.loads(containers.client("inspect", found.decode()))
        assert facts["Config"]["Healthcheck"]["Test"] == ["NONE"]
        assert not (facts["State"].get("Health") or {}).get("Log")
    finally:
        process.terminate()
        process.communicate(timeout=60)


# --- output that cannot be written ---


def run_into(bottle: Bottle, image: str, stdout: Any, command: str) -> subprocess.CompletedProcess[bytes]:
    argv = [str(PROGRAM), "run", "-q", "--backend=docker", "--image", image, "--", "sh", "-c", command]
    return subprocess.run(argv, env=bottle.env(), stdout=stdout, stderr=subprocess.PIPE, timeout=120)


def test_output_that_a_full_disk_loses_is_a_failure(
    bottle: Bottle, bottle_image: str, engine_case: Case
) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = run_into(bottle, bottle_image, full, "echo lost")
        assert done.returncode == LOST_OUTPUT[engine_case.kind], done.stderr
        assert b"no space left" in done.stderr.lower()
        assert run_into(bottle, bottle_image, full, "exit 3").returncode == 3


def test_a_reader_that_goes_away_ends_the_bottle_quietly(bottle: Bottle, bottle_image: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for command in ("while echo line; do :; done", "echo line"):
            done = run_into(bottle, bottle_image, writing, command)
            assert (done.returncode, done.stderr) == (141, b""), command
    finally:
        os.close(writing)


def test_exec_of_what_cannot_be_run_has_dockers_status(bottle: Bottle, bottle_image: str) -> None:
    options = ("run", "-q", "-d", "--backend=docker", "--name", "here", "--image", bottle_image)
    assert bottle(*options, "--", "sleep", "1000").code == 0
    try:
        assert bottle("exec", "here", "nosuch").code == 127
        assert bottle("exec", "here", "/etc/passwd").code == 126
        assert bottle("exec", "here", "sh", "-c", "exit 126").code == 126
        assert bottle("exec", "here", "echo", "-n", "--", "x").out == "-- x"
    finally:
        assert bottle("stop", "-t", "0", "here").code == 0
        bottle("rm", "here")

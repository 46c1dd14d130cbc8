"""`bottle run` as a user meets it: a process, a terminal, signals, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pexpect
import pytest
from tests.support.engines import CHECKOUT, Docker
from tests.support.terminals import interrupt
from tests.vm.conftest import COMMAND

HELLO = CHECKOUT / "examples" / "hello"
BOOT = 200
pytestmark = pytest.mark.timeout(300)  # an emulated host that stands still does so for ever


def left_behind(cache: Path) -> list[str]:
    """Run folders of `cache`, and processes that name it."""
    found = [str(path) for path in (cache / "runs").glob("run-*")]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if str(cache).encode() in words and b"qemu" in words:
            found.append(words.decode("utf-8", "replace"))
    return found


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> None:
    subprocess.run([HELLO / "prepare"], check=True, timeout=30)


@pytest.mark.usefixtures("docker")
def test_a_dockerfile_to_a_microvm_and_nothing_left(shared_cache: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "run", "--accel=direct", HELLO], capture_output=True, timeout=BOOT, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "agent (uid 1000)" in done.stdout
    assert os.uname().release not in done.stdout
    assert [line.split()[0] for line in done.stderr.splitlines()][:1] == ["build"]
    assert left_behind(shared_cache) == []


@contextmanager
def started(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A bottle whose command has said that it is there; whatever comes of it, it is ended."""
    argv = [*COMMAND, "run", "-q", "--accel=direct", str(HELLO), "--", "sh", "-c", script]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout
            assert child.stdout.readline() == b"there\n", child.communicate()
            yield child
        finally:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(30)
            child.kill()


@pytest.mark.usefixtures("docker")
def test_the_first_ctrl_c_is_the_commands_and_output_streams(shared_cache: Path) -> None:
    with started('trap "echo caught; exit 9" INT; echo there; while :; do sleep 0.2; done') as child:
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (9, b"caught\n"), err
    assert left_behind(shared_cache) == []


@pytest.mark.usefixtures("docker")
def test_the_second_ends_the_bottle(shared_cache: Path) -> None:
    script = 'trap "echo heard" TERM; trap "" INT; echo there; while :; do sleep 0.2; done'
    with started(script) as child:
        child.send_signal(signal.SIGTERM)
        assert child.stdout
        assert child.stdout.readline() == b"heard\n"
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert b"interrupted" in err
    assert left_behind(shared_cache) == []


@pytest.mark.usefixtures("docker")
def test_a_terminal(shared_cache: Path) -> None:
    script = 'tty; stty size; printf "\\033[1mbold\\033[0m\\n"; read -r line; echo "got $line"; sh'
    argv = ["-m", "bot_bottle", "run", "-q", "--accel=direct", str(HELLO), "--", "sh", "-c", script]
    child = pexpect.spawn(sys.executable, argv, dimensions=(33, 101), timeout=BOOT, encoding="utf-8")
    child.expect("/dev/pts/")
    child.expect("33 101")
    child.expect("\x1b\\[1mbold")
    child.send("a line\r")
    child.expect("got a line")
    child.setwinsize(44, 133)
    child.send('until [ "$(stty size)" = "44 133" ]; do sleep 0.1; done; echo resized-$((40 + 2))\r')
    child.expect("resized-42")
    child.send("echo begins-$((40 + 2)); sleep 100\r")
    child.expect("begins-42")
    interrupt(child)
    child.sendcontrol("d")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus is not None
    assert left_behind(shared_cache) == []


def test_an_ordinary_user_needs_nothing_of_root(docker: Docker, image: str, tmp_path: Path) -> None:
    """From an empty home: kernel, disk and artifact are made, and the microVM boots, all without root."""
    home = tmp_path / "home"
    home.mkdir()
    docker.docker("save", "--output", str(home / "image.tar"), image)
    for path in (home, home / "image.tar"):
        os.chown(path, 12345, 12345)
    for parent in tmp_path.parents:
        if parent.name.startswith(("popen-", "pytest-")):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    # it may read anything: the interpreter of these tests may be private to root
    user = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    user += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home)}
    argv = [
        *user,
        *COMMAND,
        "run",
        "--accel=direct",
        "--archive",
        str(home / "image.tar"),
        "--",
        "sh",
        "-c",
        "id -u; pwd; exit 7",
    ]
    done = subprocess.run(argv, cwd=home, env=env, capture_output=True, timeout=BOOT, check=False, text=True)
    assert (done.returncode, done.stdout) == (7, "1000\n/home/agent\n"), done.stderr
    assert {path.stat().st_uid for path in home.rglob("*")} == {12345}
    assert left_behind(home / ".cache" / "bot-bottle") == []

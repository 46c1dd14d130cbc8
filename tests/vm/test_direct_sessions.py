"""Commands of other processes in a running microVM that QEMU emulates, and what ends them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
from tests.support.bottle import wait_until
from tests.support.engines import Docker
from tests.vm.conftest import COMMAND
from tests.vm.test_run import left_behind

BOOT = 200
RUN = ("run", "--accel=direct", "-d", "-m", "512m", "--name")


def bottle(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *args], input=stdin, capture_output=True, timeout=BOOT, check=False)


@contextmanager
def shell(name: str) -> Iterator[pexpect.spawn[str]]:
    """`bottle shell` at a terminal."""
    argv = ["-m", "bot_bottle", "shell", name]
    child = pexpect.spawn(sys.executable, argv, dimensions=(30, 90), timeout=60, encoding="utf-8")
    try:
        yield child
    finally:
        child.close()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder that outlives each test of this module."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def name(docker: Docker, image: str, shared_cache: Path, state: Path) -> Iterator[str]:
    """A bottle in the background."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOT_BOTTLE_CACHE_DIR", str(shared_cache))
        patch.setenv("BOT_BOTTLE_STATE_DIR", str(state))
        begun = bottle(*RUN, "side", "--image", image, "--", "sh", "-c", "while :; do sleep 1; done")
        assert begun.returncode == 0, begun
        yield "side"
        assert bottle("stop", "-t", "0", "side").returncode == 0


@pytest.fixture(autouse=True)
def _same_folders(monkeypatch: pytest.MonkeyPatch, shared_cache: Path, state: Path) -> None:
    monkeypatch.setenv("BOT_BOTTLE_CACHE_DIR", str(shared_cache))
    monkeypatch.setenv("BOT_BOTTLE_STATE_DIR", str(state))


def test_another_command_has_its_streams_status_user_and_variables(name: str) -> None:
    script = 'cat; echo "$GREETING|$MORE" ; id -u; pwd; echo err >&2; exit 4'
    done = bottle("exec", "-e", "MORE=1", name, "--", "sh", "-c", script, stdin=b"in\n")
    assert (done.returncode, done.stderr) == (4, b"err\n")
    assert done.stdout.decode().splitlines() == ["in", "two words|1", "1000", "/home/agent"]
    other = bottle("exec", "-u", "0", "-w", "/etc", name, "--", "sh", "-c", "id -u; pwd")
    assert other.stdout == b"0\n/etc\n"


def test_a_command_that_is_not_there_and_a_user_that_is_not(name: str) -> None:
    assert bottle("exec", name, "--", "no-such-command").returncode == 127
    unknown = bottle("exec", "-u", "nobody-there", name, "--", "true")
    assert unknown.returncode == 101
    assert b"no user 'nobody-there'" in unknown.stderr


def test_as_many_commands_at_once_as_there_are_and_more(name: str) -> None:
    data = os.urandom(300_000)

    def one(number: int) -> bytes:
        return bottle("exec", name, "--", "sh", "-c", f"echo {number}; sha256sum", stdin=data).stdout

    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(one, range(10)))
    wanted = hashlib.sha256(data).hexdigest()
    assert [each.split()[:2] for each in found] == [[f"{n}".encode(), wanted.encode()] for n in range(10)]


def test_a_command_whose_client_is_killed_is_killed(name: str) -> None:
    mark = "sleep 4321"
    argv = [*COMMAND, "exec", name, "--", "sh", "-c", f"echo there; {mark}"]

    def runs() -> bool:
        return mark.encode() in bottle("exec", "-u", "0", name, "--", "ps").stdout

    with subprocess.Popen(argv, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"
        assert runs()
        client.kill()
    wait_until(lambda: not runs())


def test_what_a_command_leaves_in_the_background_keeps_nobody_waiting(name: str) -> None:
    done = bottle("exec", name, "--", "sh", "-c", "sleep 1000 & echo $!; exit 3")
    assert done.returncode == 3
    assert bottle("exec", name, "--", "kill", done.stdout.decode().strip()).returncode == 0


def test_a_signal_reaches_the_command_and_the_second_ends_it(name: str) -> None:
    script = 'trap "echo caught; exit 9" INT; echo there; while :; do sleep 0.2; done'
    with subprocess.Popen(
        [*COMMAND, "exec", name, "--", "sh", "-c", script], stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"
        client.send_signal(signal.SIGINT)
        assert client.communicate(timeout=60)[0] == b"caught\n"
    assert client.returncode == 9


def test_a_shell_has_a_terminal(name: str) -> None:
    with shell(name) as child:
        child.expect("[$#] ")
        child.send("stty size; tty\r")
        child.expect("30 90")
        child.expect("/dev/pts/")
        child.send("exit 5\r")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 5


def test_what_is_typed_before_the_prompt_is_not_lost(name: str) -> None:
    """Not while bottle starts, and not while the shell does; it is for this shell alone, though."""
    with shell(name) as child:
        child.send("echo early-$((40 + 2))\r")
        child.expect("early-42")
        child.send("exit 5\recho late-$((40 + 2))\r")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 5
    with shell(name) as child:
        child.send("echo next-$((40 + 2)); exit 6\r")
        child.expect(pexpect.EOF)
        shown = str(child.before)
    assert "next-42" in shown
    assert "late" not in shown
    assert child.exitstatus == 6


def test_the_network_is_checked_again(name: str) -> None:
    done = bottle("check", name)
    assert done.returncode == 0, done
    assert b"unreachable" in done.stdout


def test_a_guest_whose_qemu_is_killed_is_an_error_with_words(image: str, shared_cache: Path) -> None:
    argv = [*COMMAND, "run", "-q", "--accel=direct", "--name", "killed", "-m", "512m", "--image", image, "--"]
    with subprocess.Popen(
        [*argv, "sh", "-c", "echo there; sleep 600"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"there\n"
        [qemu] = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cwd")
            if path.exists() and path.readlink().name == "machine-killed"
        ]
        os.kill(qemu, signal.SIGKILL)
        err = run.communicate(timeout=60)[1]
    assert run.returncode == 111
    assert b"the microVM ended before its command did" in err
    assert [each for each in left_behind(shared_cache) if "killed" in each] == []


def test_a_kernel_that_panics_is_reported_with_its_reason(image: str) -> None:
    fill = "for each in /dev/shm /run /dev; do dd if=/dev/zero of=$each/x bs=1M; done"
    crash = f"echo 1 > /proc/sys/vm/panic_on_oom; {fill}; echo survived"
    run = ("run", "-q", "--accel=direct", "-u", "0", "-m", "256m", "--image", image, "--")
    done = bottle(*run, "sh", "-c", crash)
    assert done.returncode == 111, done
    assert b"kernel panicked: Out of memory" in done.stderr


def test_without_qemu_it_is_said_what_to_install(
    image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path in os.environ["PATH"].split(":"):
        for program in Path(path).iterdir() if Path(path).is_dir() else ():
            if not program.name.startswith("qemu") and not (tmp_path / program.name).exists():
                (tmp_path / program.name).symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = bottle("run", "-q", "--accel=direct", "--image", image, "--", "true")
    assert done.returncode == 110, done
    assert b"apt-get install --no-install-recommends qemu-system-x86" in done.stderr

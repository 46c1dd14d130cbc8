"""scripts/engine and scripts/setup, as make calls them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.engines import CHECKOUT, Docker

RUN_FOLDERS = Path("/run")


@dataclass(frozen=True)
class Checkout:
    """A checkout of its own, so that its private engine is not the one that the other tests use."""

    folder: Path
    env: dict[str, str]

    def start(self, *command: str) -> subprocess.Popen[str]:
        argv = [str(self.folder / "scripts" / "engine"), "run", "--", *command]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=self.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        with self.start(*command) as process:
            out, err = process.communicate(timeout=90)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    @property
    def run_folder(self) -> Path:
        return next(
            path
            for path in RUN_FOLDERS.glob("bot-bottle-*")
            if str(self.folder) in (path / "containerd.toml").read_text()
        )

    def processes(self) -> list[tuple[int, str]]:
        return [
            (pid, started) for pid, started in json.loads((self.run_folder / "processes.json").read_text())
        ]

    def bridges(self) -> list[str]:
        return [path.name for path in Path("/sys/class/net").glob(f"bb{self.run_folder.name[-8:]}")]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    shutil.copytree(CHECKOUT / "scripts", tmp_path / "scripts")
    # no engine answers there, so that a private one has to
    env = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nothing.sock"}
    checkout = Checkout(tmp_path, env)
    yield checkout
    cleaned = subprocess.run([tmp_path / "scripts" / "engine", "clean"], timeout=60)
    assert cleaned.returncode == 0
    assert not (tmp_path / ".cache" / "engine").exists()


def is_alive(pid: int, started: str) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and fields[19] == started


def wait_until(there: Callable[[], bool], seconds: float = 40) -> bool:
    deadline = time.monotonic() + seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(0.05)
    return there()


def is_gone(checkout: Checkout, processes: list[tuple[int, str]]) -> bool:
    alive = [pid for pid, started in processes if is_alive(pid, started)]
    left = [name for name in ("docker.sock", "processes.json") if (checkout.run_folder / name).exists()]
    return not alive and not left and not checkout.bridges()


def read_host(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    host = process.stdout.readline().strip()
    assert host.startswith("unix:///run/bot-bottle-")
    return host


def test_command_has_an_engine_and_gives_its_own_status(checkout: Checkout) -> None:
    with checkout.start("sh", "-c", 'docker info --format "$DOCKER_HOST"; read -r _; exit 7') as process:
        read_host(process)
        processes = checkout.processes()
        assert len(processes) == 2  # containerd and dockerd
        assert checkout.bridges()
        process.communicate("go on\n", timeout=30)
    assert process.returncode == 7
    assert wait_until(lambda: is_gone(checkout, processes))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_engine_ends_when_its_user_is_killed(checkout: Checkout, signum: signal.Signals) -> None:
    with checkout.start("sh", "-c", "echo $DOCKER_HOST; exec sleep 600") as process:
        read_host(process)
        processes = checkout.processes()
        assert not is_gone(checkout, processes)
        process.send_signal(signum)
    assert process.returncode == -signum
    assert wait_until(lambda: is_gone(checkout, processes))


def test_what_a_killed_keeper_left_is_ended_by_the_next_run(checkout: Checkout) -> None:
    with checkout.start("sh", "-c", "echo $DOCKER_HOST; exec sleep 600") as process:
        read_host(process)
        left = checkout.processes()
        keeper = int(Path(f"/proc/{left[0][0]}/stat").read_text().rpartition(")")[2].split()[1])
        assert b"private_engine.keeper" in Path(f"/proc/{keeper}/cmdline").read_bytes()
        os.kill(keeper, signal.SIGKILL)
        process.kill()
    assert wait_until(lambda: not Path(f"/proc/{keeper}").exists())
    assert all(is_alive(*each) for each in left)

    with checkout.start("sh", "-c", "docker version >/dev/null && echo $DOCKER_HOST; read -r _") as process:
        read_host(process)
        assert not any(is_alive(*each) for each in left)
        processes = checkout.processes()
        process.communicate("go on\n", timeout=30)
    assert wait_until(lambda: is_gone(checkout, processes))


def test_two_commands_share_the_engine_until_the_last_one_ends(checkout: Checkout) -> None:
    command = ("sh", "-c", "echo $DOCKER_HOST; read -r _; docker version --format {{.Server.Version}}")
    with checkout.start(*command) as first, checkout.start(*command) as second:
        assert read_host(first) == read_host(second)
        processes = checkout.processes()
        first.communicate("go on\n", timeout=30)
        time.sleep(0.5)  # time enough for a keeper that took the first one's end for the last
        assert checkout.processes() == processes
        out, err = second.communicate("go on\n", timeout=30)
    assert (first.returncode, second.returncode) == (0, 0), err
    assert out.strip()
    assert wait_until(lambda: is_gone(checkout, processes))


def test_an_engine_that_answers_is_used(docker: Docker, checkout: Checkout) -> None:
    done = subprocess.run(
        [checkout.folder / "scripts" / "engine", "run", "--", "sh", "-c", "echo $DOCKER_HOST"],
        env=docker.env,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout.strip(), done.stderr) == (docker.env.get("DOCKER_HOST", ""), "")


def test_a_command_that_is_not_there(docker: Docker, checkout: Checkout) -> None:
    engine = checkout.folder / "scripts" / "engine"
    done = subprocess.run(
        [engine, "run", "--", "no-such-command"], env=docker.env, capture_output=True, timeout=30
    )
    assert done.returncode == 127
    assert done.stderr == b"error: cannot run no-such-command: No such file or directory\n"


def test_a_published_port_answers_on_loopback(docker: Docker, base_image: str) -> None:
    """The private engine writes no firewall rules; docker's own proxy carries the connection."""
    serve = "while true; do echo hello | nc -l -p 5000; done"
    container = docker.docker("run", "-d", "--rm", "-p", "127.0.0.1::5000", base_image, "sh", "-c", serve)
    try:
        address, _, port = (
            docker.docker("port", container.decode().strip(), "5000").decode().strip().rpartition(":")
        )
        answer = subprocess.run(["busybox", "nc", "-w", "5", address, port], capture_output=True, timeout=20)
        assert answer.stdout == b"hello\n"
    finally:
        docker.docker("rm", "--force", container.decode().strip())


def test_setup_with_nothing_to_do_says_nothing() -> None:
    setup = [str(CHECKOUT / "scripts" / "setup"), "test"]
    subprocess.run(setup, check=True, timeout=300)
    done = subprocess.run(setup, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def without(folder: Path, *names: str) -> str:
    """Give a PATH that has every program of the system but these."""
    folder.mkdir()
    for place in ("/usr/bin", "/bin"):
        for program in Path(place).iterdir():
            if program.name not in names and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return str(folder)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (("skopeo",), "Next: run: sudo apt-get install --no-install-recommends skopeo"),
        (("skopeo", "apt-get"), "this machine has no apt-get"),
    ],
)
def test_setup_that_cannot_install_says_what_to_do(missing: tuple[str, ...], words: str) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(CHECKOUT / "scripts", folder / "scripts")
        done = subprocess.run(
            [*(nobody if os.geteuid() == 0 else []), str(folder / "scripts" / "setup"), "test"],
            env={"PATH": without(folder / "bin", *missing), "PYTHON": "/usr/bin/python3"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert words in done.stderr

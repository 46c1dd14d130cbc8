"""scripts/engine: the private engines, how they are shared, and how they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bot_bottle.host.process_tree import start_time
from tests.support.bottle import wait_until
from tests.support.engine_matrix import BASE, fresh_context
from tests.support.engines import CHECKOUT, Docker

# this machine's docker, which containerd runs beside, and one that starts its containerd itself
ENGINES = ["", "docker-26-containerd"]
GONE_SECONDS = 120  # which an engine may take to end on a busy machine
Marks = list[tuple[int, str]]


@dataclass(frozen=True)
class Checkout:
    """A checkout of its own, so that its private engines are not those that the other tests use."""

    folder: Path
    env: dict[str, str]

    def start(self, *command: str, engine: str = "", copy: str = "") -> subprocess.Popen[str]:
        options = [*(["--engine", engine] if engine else []), *(["--copy", copy] if copy else [])]
        argv = [str(self.folder / "scripts" / "engine"), "run", *options, "--", *command]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=self.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@dataclass(frozen=True)
class Seen:
    """What runs for one engine."""

    run_folder: Path
    host: str
    processes: Marks

    def is_gone(self) -> bool:
        files = ("docker.sock", "processes.json")
        left = [name for name in files if (self.run_folder / name).exists()]
        left += [str(path) for path in Path("/var/tmp").glob(self.run_folder.name)]
        return not any(is_alive(*each) for each in self.processes) and not left and not self.bridges()

    def keeper_waits(self) -> bool:
        """Tell whether the keeper waits for the lock that the engine's users hold. See proc_locks(5)."""
        [[keeper, _]] = json.loads((self.run_folder / "keeper.json").read_text())
        inode = (self.run_folder / "users.lock").stat().st_ino
        waiting = (line.split() for line in Path("/proc/locks").read_text().splitlines() if "-> " in line)
        return any(words[5] == str(keeper) and words[6].endswith(f":{inode}") for words in waiting)

    def bridges(self) -> list[str]:
        return [path.name for path in Path("/sys/class/net").glob(f"bb{self.run_folder.name[-8:]}")]


def see(process: subprocess.Popen[str]) -> Seen:
    """Read the host that a command says in its first line, and look what runs there."""
    assert process.stdout is not None
    host = process.stdout.readline().strip()
    assert host.startswith("unix:///run/bot-bottle-")
    folder = Path(host.removeprefix("unix://")).parent
    recorded = [pid for pid, _ in json.loads((folder / "processes.json").read_text())]
    # dockerd's containerd, and not what it has run for a moment, such as `runc --version`
    own = [pid for each in recorded for pid in children(each) if name_of(pid) == "containerd"]
    return Seen(folder, host, [(pid, start_time(pid)) for pid in (*recorded, *own)])


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    shutil.copytree(CHECKOUT / "scripts", tmp_path / "scripts")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "suites").symlink_to(CHECKOUT / ".cache" / "suites")
    # no engine answers there, so that a private one has to
    env = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nothing.sock"}
    yield Checkout(tmp_path, env)
    cleaned = subprocess.run([tmp_path / "scripts" / "engine", "clean"], timeout=300)
    assert cleaned.returncode == 0
    assert [path.name for path in (tmp_path / ".cache").iterdir()] == ["suites"]


def children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # that thread has ended
            found += map(int, path.read_text().split())
    return found


def name_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def is_alive(pid: int, started: str) -> bool:
    return started != "" and start_time(pid) == started


@pytest.mark.parametrize("engine", ENGINES)
def test_command_has_an_engine_and_gives_its_own_status(checkout: Checkout, engine: str) -> None:
    script = 'docker info --format "$DOCKER_HOST"; read -r _; exit 7'
    with checkout.start("sh", "-c", script, engine=engine) as process:
        seen = see(process)
        assert len(seen.processes) == 2  # containerd and dockerd
        assert seen.bridges()
        process.communicate("go on\n", timeout=30)
    assert process.returncode == 7
    wait_until(seen.is_gone, GONE_SECONDS, 0.05)


@pytest.mark.parametrize(
    ("signum", "engine"),
    [
        (signal.SIGINT, ENGINES[0]),
        (signal.SIGKILL, ENGINES[1]),
        pytest.param(signal.SIGKILL, ENGINES[0], marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, ENGINES[1], marks=pytest.mark.slow),
        *(pytest.param(signal.SIGTERM, engine, marks=pytest.mark.slow) for engine in ENGINES),
    ],
)
def test_engine_ends_when_its_user_is_killed(checkout: Checkout, engine: str, signum: signal.Signals) -> None:
    with checkout.start("sh", "-c", "echo $DOCKER_HOST; exec sleep 600", engine=engine) as process:
        seen = see(process)
        assert not seen.is_gone()
        process.send_signal(signum)
    assert process.returncode == -signum
    wait_until(seen.is_gone, GONE_SECONDS, 0.05)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_killed_keeper_left_is_ended_by_the_next_run(checkout: Checkout, engine: str) -> None:
    with checkout.start("sh", "-c", "echo $DOCKER_HOST; exec sleep 600", engine=engine) as process:
        left = see(process)
        keeper = int(Path(f"/proc/{left.processes[0][0]}/stat").read_text().rpartition(")")[2].split()[1])
        assert b"private_engine.keeper" in Path(f"/proc/{keeper}/cmdline").read_bytes()
        os.kill(keeper, signal.SIGKILL)
        process.kill()
    wait_until(lambda: not Path(f"/proc/{keeper}").exists())
    assert all(is_alive(*each) for each in left.processes)

    script = "docker version >/dev/null && echo $DOCKER_HOST; read -r _"
    with checkout.start("sh", "-c", script, engine=engine) as process:
        seen = see(process)
        assert not any(is_alive(*each) for each in left.processes)
        process.communicate("go on\n", timeout=30)
    wait_until(seen.is_gone, GONE_SECONDS, 0.05)


def test_two_commands_share_the_engine_until_the_last_one_ends(checkout: Checkout) -> None:
    command = ("sh", "-c", "echo $DOCKER_HOST; read -r _; docker version --format {{.Server.Version}}")
    with checkout.start(*command) as first, checkout.start(*command) as second:
        seen = see(first)
        assert see(second) == seen
        first.communicate("go on\n", timeout=30)
        assert seen.keeper_waits(), "the keeper took the first one's end for the last"
        assert all(is_alive(*each) for each in seen.processes)
        out, err = second.communicate("go on\n", timeout=30)
    assert (first.returncode, second.returncode) == (0, 0), err
    assert out.strip()
    wait_until(seen.is_gone, GONE_SECONDS, 0.05)


def test_two_engines_run_at_once_and_share_nothing(checkout: Checkout) -> None:
    """They are of one suite and differ in their store."""
    script = "echo $DOCKER_HOST; read -r _; docker info --format '{{.Driver}} {{.DockerRootDir}}'"
    names = ("docker-26-overlay2", "docker-26-containerd")
    one, other = (checkout.start("sh", "-c", script, engine=name) for name in names)
    with one, other:
        seen = see(one), see(other)
        assert seen[0].bridges() != seen[1].bridges()
        said = [process.communicate("go on\n", timeout=30)[0].split() for process in (one, other)]
    assert [driver for driver, _ in said] == ["overlay2", "overlayfs"]
    assert said[0][1] != said[1][1]
    for each in seen:
        wait_until(each.is_gone, GONE_SECONDS, 0.05)


def test_a_copy_of_an_engine_is_another_one(checkout: Checkout, docker: Docker) -> None:
    """Also where an engine answers. `clean`, which the fixture runs, knows of copies."""
    answering = replace(checkout, env=docker.env)
    script = "echo $DOCKER_HOST; read -r _; docker info --format '{{.DockerRootDir}}'"
    one, other = (answering.start("sh", "-c", script, copy=copy) for copy in ("one", "other"))
    with one, other:
        seen = see(one), see(other)
        hosts = {*(each.host for each in seen), docker.env.get("DOCKER_HOST", "")}
        roots = {process.communicate("go on\n", timeout=30)[0] for process in (one, other)}
    assert (len(hosts), len(roots)) == (3, 2)
    for each in seen:
        wait_until(each.is_gone, GONE_SECONDS, 0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"copy": "../up"}, "'../up' cannot name a copy of an engine\nNext: use a few of a to z"),
        (
            {"copy": "one", "engine": "podman-5.8"},
            "podman runs no engine to copy\nNext: give it another storage",
        ),
    ],
)
def test_a_copy_that_cannot_be_made_is_refused(
    checkout: Checkout, options: dict[str, str], words: str
) -> None:
    with checkout.start("true", **options) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert words in err


def test_a_docker_that_is_named_comes_with_its_client(checkout: Checkout) -> None:
    script = "docker version --format '{{.Client.Version}} {{.Server.Version}}' && docker buildx version >&2"
    with checkout.start("sh", "-c", script, engine="docker-28-overlay2") as process:
        out, err = process.communicate(timeout=90)
    client, server = out.split()
    assert client == server
    assert "buildx" in err


@pytest.mark.parametrize("engine", ["docker-28-overlay2", "docker-28-containerd"])
def test_an_engine_of_a_checkout_with_a_long_path_forwards_an_ssh_agent(
    checkout: Checkout, engine: str
) -> None:
    """BuildKit makes the agent's socket among dockerd's temporary files, and its path has a limit."""
    folder = checkout.folder / ("long" * 25)
    shutil.copytree(checkout.folder / "scripts", folder / "scripts")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "suites").symlink_to(CHECKOUT / ".cache" / "suites")
    context = fresh_context(folder / "context")
    (context / "Dockerfile").write_text(f"{BASE}RUN --mount=type=ssh ls $SSH_AUTH_SOCK\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    build = ("docker", "build", "--quiet", f"--ssh=default={folder}/key", str(context))
    try:
        with replace(checkout, folder=folder).start(*build, engine=engine) as process:
            out, err = process.communicate(timeout=120)
        assert (process.returncode, out[:7]) == (0, "sha256:"), err
    finally:
        subprocess.run([folder / "scripts" / "engine", "clean"], timeout=300, check=True)
    assert not list((folder / ".cache" / "engines").glob("*"))


def test_a_temporary_folder_that_another_user_has_made_is_not_used(checkout: Checkout) -> None:
    """In a folder where every user can make files, another user's may have the engine's name."""
    made = subprocess.run(
        [sys.executable, "-c", "from private_engine import places; print(places.temporary_folder('one'))"],
        cwd=checkout.folder / "scripts",
        capture_output=True,
        text=True,
        check=True,
    )
    folder, other = Path(made.stdout.strip()), checkout.folder / "other"
    other.mkdir()
    folder.symlink_to(other)
    try:
        with checkout.start("true", copy="one") as process:
            out, err = process.communicate(timeout=60)
    finally:
        folder.unlink()
    assert (process.returncode, out, list(other.iterdir())) == (1, "", [])
    assert f"{folder} is somebody else's: remove it" in err


@pytest.mark.parametrize("name", ["podman-5.4", "podman-5.8"])
def test_a_podman_that_is_named_has_its_own_storage_and_helpers(checkout: Checkout, name: str) -> None:
    """It keeps what it makes below .cache, and finds its helpers."""
    script = "podman info --format json; echo $BOT_BOTTLE_ENGINE >&2"
    with checkout.start("sh", "-c", script, engine=name) as process:
        out, err = process.communicate(timeout=90)
    info = json.loads(out)
    assert info["version"]["Version"].split(".")[0] == "5"
    assert info["store"]["graphRoot"] == str(checkout.folder / ".cache" / "engines" / name / "root")
    for helper in (info["host"]["conmon"], info["host"]["ociRuntime"], info["host"]["networkBackendInfo"]):
        assert helper["path"].startswith(str(checkout.folder / ".cache" / "suites"))
    assert err.splitlines()[-1] == "podman"


def test_an_engine_that_answers_is_used(docker: Docker, checkout: Checkout) -> None:
    done = subprocess.run(
        [checkout.folder / "scripts" / "engine", "run", "--", "sh", "-c", "echo $DOCKER_HOST"],
        env=docker.env,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout.strip(), done.stderr) == (docker.env.get("DOCKER_HOST", ""), "")


def test_a_command_that_is_not_there_ends_with_127(docker: Docker, checkout: Checkout) -> None:
    engine = checkout.folder / "scripts" / "engine"
    done = subprocess.run(
        [engine, "run", "--", "no-such-command"], env=docker.env, capture_output=True, timeout=30
    )
    assert done.returncode == 127
    assert done.stderr == b"error: cannot run no-such-command: No such file or directory\n"


def test_an_unknown_engine_is_refused_with_the_names_there_are(checkout: Checkout) -> None:
    with checkout.start("true", engine="docker-1") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert "there is no engine named docker-1\nNext: name one of: docker-26-overlay2," in err


def test_list_says_which_versions_are_there() -> None:
    done = subprocess.run(
        [CHECKOUT / "scripts" / "engine", "list"], capture_output=True, text=True, timeout=30
    )
    listed = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert set(listed) >= {"docker-26-overlay2", "docker-28-containerd", "podman-5.4", "podman-5.8"}
    assert all(version[0].isdigit() for version in listed.values()), listed


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_fetching_that_was_killed_is_done_again(checkout: Checkout, signum: signal.Signals) -> None:
    """The packages are really fetched, and nothing is left of what was cut short."""
    suites = checkout.folder / ".cache" / "suites"
    suites.unlink()
    get = [str(checkout.folder / "scripts" / "engine"), "get", "podman-5.8"]
    with subprocess.Popen(get, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: any(suites.glob(".*.part/root/usr")), 300)
        process.send_signal(signum)
    assert process.returncode != 0
    done = subprocess.run(get, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "MB of container engines" in done.stderr
    assert sorted(path.name for path in suites.iterdir()) == ["lock", "sid"]
    program = suites / "sid" / "usr" / "bin" / "podman"
    assert subprocess.run([program, "--version"], capture_output=True, timeout=30).returncode == 0
    shutil.rmtree(suites)
    suites.symlink_to(CHECKOUT / ".cache" / "suites")

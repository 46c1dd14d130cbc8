"""A microVM by a newer QEMU than this machine's, which is not among the system's files: confined as any."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.bottle import Bottle, end, wait_until
from tests.support.callers import Caller, caller
from tests.support.engines import CHECKOUT, SCRIPT, Docker
from tests.support.host_service import service

from bot_bottle.network.probes import BUSYBOX

BB = " ".join(BUSYBOX)
DATA = bytes(range(256)) * 8192  # 2 MB
COMMANDS = f"""
sha256sum
cat README; echo inside >> README
grep -o rtc0 /proc/interrupts
echo asked | {BB} nc host.bottle @port@ | {BB} tail -n 1
{BB} nc -ll -p 3000 -e {BB} echo by the port 2>/dev/null &
echo listening
until [ -e answered ]; do {BB} sleep 0.1; done
kill $!
echo of-error >&2
exit 7
"""


def search_path(name: str) -> str:
    """Return PATH with one of the QEMUs of `scripts/engine list` before all others."""
    argv = [str(SCRIPT), "qemu", name, "--", "sh", "-c", 'echo "$PATH"']
    return subprocess.run(argv, capture_output=True, check=True, text=True, timeout=300).stdout.strip()


def running_in(folder: Path) -> list[str]:
    """Return the programs below a folder that run now."""
    found = []
    for link in Path("/proc").glob("[0-9]*/exe"):
        try:
            program = link.readlink()
        except OSError:  # the process has ended, or is the kernel's
            continue
        found += [program.name] if folder in program.parents else []
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def answer(port: int) -> bytes:
    """Return the first bytes that a port of this machine says; none if nobody answers there."""
    try:
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            return client.recv(100)
    except ConnectionError:
        return b""


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "suite", "uid"),
    [
        pytest.param("qemu-10", "trixie-qemu", 0, marks=pytest.mark.slow),
        pytest.param("qemu-10", "trixie-qemu", 12345, marks=pytest.mark.slow),
        ("qemu-11", "sid-qemu", 0),
        pytest.param("qemu-11", "sid-qemu", 12345, marks=pytest.mark.slow),
    ],
)
def test_a_newer_qemu_boots_a_confined_bottle_with_a_workspace_and_ports(
    docker: Docker, image: str, shared_cache: Path, name: str, suite: str, uid: int
) -> None:
    """For root and for an ordinary user."""
    with caller(uid, docker, None if uid else shared_cache) as who:
        docker.docker("save", "--output", str(who.folder / "image.tar"), image)
        (who.folder / "image.tar").chmod(0o644)
        (who.folder / "data").write_bytes(DATA)
        bottle = replace(who.bottle, changes={**who.bottle.changes, "PATH": search_path(name)})
        hold_works(bottle, who, CHECKOUT / ".cache" / "suites" / suite)
        who.left_nothing()


def hold_works(bottle: Bottle, who: Caller, programs: Path) -> None:
    repo, port = who.repo(), free_port()
    options = [*("--accel", "direct", "-m", "512m", "-u", "0", "--name", "newer", "-p", f"{port}:3000")]
    options += ["--workspace", "mount", "--archive", str(who.folder / "image.tar")]
    with service() as asked, (who.folder / "data").open("rb") as data:
        options += ["--allow-host-port", str(asked), "--", "sh", "-c", COMMANDS.replace("@port@", str(asked))]
        child = bottle.start("run", "-q", *options, cwd=repo.top, stdin=data.fileno())
        assert child.stdout
        said = [child.stdout.readline() for _ in range(5)]
    if said[4] == "listening\n":
        assert running_in(programs) == ["qemu-system-x86_64"]
        [console] = (bottle.cache / "runs").glob("run-*/machine-newer/console.log")
        assert console.stat().st_size
        wait_until(lambda: answer(port) == b"by the port\n", pause=0.1)
        (repo.top / "answered").touch()
    ended = end(child, 120)
    digest = hashlib.sha256(DATA).hexdigest()
    words = ["readme\n", "rtc0\n", "heard asked\n", "listening\n"]
    assert said == [f"{digest}  -\n", *words], (said, ended)
    assert ended.code == 7, ended
    assert (ended.out, ended.err) == ("", "of-error\n")
    assert (repo.top / "README").read_text() == "readme\ninside\n"
    proof = json.loads(bottle("show", "--json", "newer").out)["proof"]
    assert all(each["ok"] for each in proof.values())
    assert proof["qemu.namespaces"]["outcome"].removeprefix("user ") == "mount ipc uts network"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "suite"), [("qemu-10", "trixie-qemu"), ("qemu-11", "sid-qemu")])
def test_smolvm_boots_on_a_host_that_a_newer_qemu_emulates(
    docker: Docker, image: str, shared_cache: Path, tmp_path: Path, name: str, suite: str
) -> None:
    bottle = Bottle(shared_cache, {**docker.variables, "PATH": search_path(name)})
    script = 'echo "inside $(id -u)"; cat; echo of-error >&2; exit 7'
    (tmp_path / "given").write_text("given\n")
    with (tmp_path / "given").open() as given:
        options = ["-q", "--accel", "nested", "--image", image]
        child = bottle.start("run", *options, "--", "sh", "-c", script, stdin=given.fileno())
    programs = CHECKOUT / ".cache" / "suites" / suite
    try:
        wait_until(lambda: running_in(programs) or child.poll() is not None, 300)
        running = running_in(programs)
    finally:
        ended = end(child, 500)
    assert running == ["qemu-system-x86_64"], ended
    assert (ended.code, ended.out, ended.err) == (7, "inside 1000\ngiven\n", "of-error\n"), ended
    assert not bottle.leftovers

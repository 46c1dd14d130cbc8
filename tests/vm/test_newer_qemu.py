"""A microVM by a newer QEMU than this machine's, which is not among the system's files: confined as any."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from pathlib import Path

import pytest
from tests.support.bottle import Bottle, end, wait_until
from tests.support.engines import CHECKOUT, SCRIPT, Docker
from tests.support.repos import make_repo

from bot_bottle.network.probes import BUSYBOX

BB = " ".join(BUSYBOX)
DATA = bytes(range(256)) * 8192  # 2 MB
COMMANDS = f"""
sha256sum
cat README; echo inside >> README
grep -o rtc0 /proc/interrupts
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
    ("name", "suite"),
    [pytest.param("qemu-10", "trixie-qemu", marks=pytest.mark.slow), ("qemu-11", "sid-qemu")],
)
def test_a_newer_qemu_boots_a_confined_bottle_with_a_workspace_and_a_port(
    docker: Docker, image: str, shared_cache: Path, tmp_path: Path, name: str, suite: str
) -> None:
    docker.docker("save", "--output", str(tmp_path / "image.tar"), image)
    (tmp_path / "data").write_bytes(DATA)
    repo = make_repo(tmp_path / "repo")
    repo.commit({"README": "readme\n"})
    bottle = Bottle(
        shared_cache, {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state"), "PATH": search_path(name)}
    )
    port = free_port()
    options = [*("--accel", "direct", "-m", "512m", "-u", "0", "--name", "newer", "-p", f"{port}:3000")]
    options += ["--workspace", "mount", "--archive", str(tmp_path / "image.tar")]
    with (tmp_path / "data").open("rb") as data:
        child = bottle.start(
            "run", "-q", *options, "--", "sh", "-c", COMMANDS, cwd=repo.top, stdin=data.fileno()
        )
    assert child.stdout
    said = [child.stdout.readline() for _ in range(4)]
    if said[3] == "listening\n":
        assert running_in(CHECKOUT / ".cache" / "suites" / suite) == ["qemu-system-x86_64"]
        [console] = (shared_cache / "runs").glob("run-*/machine-newer/console.log")
        assert console.stat().st_size
        wait_until(lambda: answer(port) == b"by the port\n", pause=0.1)
        (repo.top / "answered").touch()
    ended = end(child, 120)
    digest = hashlib.sha256(DATA).hexdigest()
    assert said == [f"{digest}  -\n", "readme\n", "rtc0\n", "listening\n"], (said, ended)
    assert ended.code == 7, ended
    assert (ended.out, ended.err) == ("", "of-error\n")
    assert (repo.top / "README").read_text() == "readme\ninside\n"
    proof = json.loads(bottle("show", "--json", "newer").out)["proof"]
    assert all(each["ok"] for each in proof.values())
    assert proof["qemu.namespaces"]["outcome"] == "mount ipc uts network"
    assert bottle.leftovers == []

"""A Docker engine that belongs to this checkout alone.

Its images lie in .cache/engine of the checkout, its sockets in /run, and it shares nothing with an engine of
the system: neither containerd nor bridge nor firewall rules.

Every command that uses it holds a shared lock, which the kernel lets go of when the command ends, in whatever
way. A keeper beside the engine waits to have that lock alone, and then ends the engine. So commands that run
at once share one engine, the last one out ends it, and no signal has to be caught for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from private_engine import processes
from private_engine.bridge import Bridge

CHECKOUT = Path(__file__).resolve().parents[2]
MARK = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]
DATA = CHECKOUT / ".cache" / "engine"
RUN = Path("/run") / f"bot-bottle-{MARK}"  # short: a socket's path has 107 bytes at most
SOCKET = RUN / "docker.sock"
HOST = f"unix://{SOCKET}"
KEEPER = RUN / "keeper.json"
PROCESSES = RUN / "processes.json"
LOG = DATA / "engine.log"
BRIDGE = Bridge(f"bb{MARK}")


class Failure(Exception):
    """What is wrong, and what to do next."""


def answers(host: str = "") -> bool:
    """Tell whether an engine answers: at `host`, or wherever the docker client looks for one."""
    command = ["docker", *(["--host", host] if host else []), "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def join() -> str:
    """Use the private engine for the rest of this process, start it if it is not there, and give its host."""
    for program in ("docker", "dockerd", "containerd"):
        if find(program) is None:
            raise Failure(
                f"no Docker engine answers, and {program} is not installed", "run scripts/setup demo"
            )
    if os.geteuid() != 0:
        raise Failure(
            "no Docker engine answers, and a private one needs root", "start Docker, or become root"
        )
    RUN.mkdir(mode=0o700, exist_ok=True)
    DATA.mkdir(parents=True, exist_ok=True)
    # this waits while an engine is just being ended; what this process becomes holds the lock on
    os.set_inheritable(lock("users", fcntl.LOCK_SH), True)
    with locked("start"):
        if not (processes.alive(KEEPER) and processes.alive(PROCESSES) and answers(HOST)):
            end_leftover()
            start_keeper()
    return HOST


def start_keeper() -> None:
    """Start the keeper apart from this process, and wait until the engine answers."""
    begun = time.monotonic()
    print("engine   starting a private Docker engine", file=sys.stderr, flush=True)
    inlet, outlet = os.pipe()
    with LOG.open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "private_engine.keeper"],
            stdin=subprocess.DEVNULL,
            stdout=outlet,
            stderr=log,
            start_new_session=True,
            cwd=CHECKOUT / "scripts",
        )
    os.close(outlet)
    with os.fdopen(inlet) as report:
        ready = report.readline() == "ready\n"
    keeper.wait()  # the keeper itself is a grandchild: what this process becomes gets no strange child
    if not ready:
        tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-15:])
        raise Failure(f"the private Docker engine did not start:\n{tail}", f"read {LOG}")
    print(f"engine   ready in {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)


def end_leftover() -> None:
    """End what a killed keeper left, or one whose engine is gone."""
    processes.end_recorded(KEEPER)
    end_engine()


def end_engine() -> None:
    """End the engine's programs and remove what they left outside the data folder."""
    processes.end_recorded(PROCESSES)
    BRIDGE.remove()
    for path in (KEEPER, PROCESSES, SOCKET, RUN / "containerd.sock", RUN / "docker.pid"):
        path.unlink(missing_ok=True)


def clean() -> None:
    """Remove all that the private engine keeps, unless somebody uses it."""
    if not RUN.is_dir():
        shutil.rmtree(DATA, ignore_errors=True)
        return
    try:
        lock("users", fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure("the private Docker engine is in use", "wait for the command that uses it") from None
    end_leftover()
    for place in (RUN, DATA):
        for mount in mounts_in(place):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(place, ignore_errors=True)


def mounts_in(place: Path) -> list[str]:
    """Give the mount points in a folder, the innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].encode().decode("unicode_escape") for line in lines]
    return sorted((point for point in points if point.startswith(f"{place}/")), reverse=True)


def find(program: str) -> str | None:
    """Find a program on PATH, and where root's programs are."""
    return shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")


def lock(name: str, how: int) -> int:
    """Take a lock file of the run folder and give its descriptor, which holds it."""
    descriptor = os.open(RUN / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock file alone."""
    descriptor = lock(name, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)

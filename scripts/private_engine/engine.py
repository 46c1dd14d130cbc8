"""A Docker engine that belongs to this checkout alone.

It is this machine's own docker, or one of the catalog. Its images lie in .cache of the checkout, its sockets
in /run, and it shares nothing with an engine of the system or with another private one: neither containerd
nor bridge nor firewall rules.

Every command that uses it holds a shared lock, which the kernel lets go of when the command ends, in whatever
way. A keeper beside the engine waits to have that lock alone, and then ends the engine. So commands that run
at once share one engine, the last one out ends it, and no signal has to be caught for that.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time

from private_engine import processes
from private_engine.bridge import Bridge
from private_engine.catalog import Entry
from private_engine.failure import Failure
from private_engine.places import (
    CACHE,
    CHECKOUT,
    find,
    lock,
    locked,
    mark,
    remove,
    run_folder,
    temporary_folder,
)
from private_engine.suite import Suite

ENDING_SECONDS = 5.0
# of the folder for one engine's files in /run
FILES = ("docker.sock", "containerd.sock", "docker.pid", "keeper.json", "processes.json")


class PrivateEngine:
    """The private engine of an entry of the catalog, or of this machine's own docker, or a copy of one."""

    def __init__(self, entry: Entry | None = None, copy: str = "") -> None:
        self.entry = entry
        self.copy = copy
        self.name = "-".join(part for part in (entry and entry.name, copy) if part)
        self.suite = Suite(entry.suite) if entry else None
        self.data = CACHE / "engines" / self.name if self.name else CACHE / "engine"
        self.run = run_folder(self.name)
        self.temporary = temporary_folder(self.name)
        self.socket, self.containerd, self.pidfile, self.keeper, self.processes = (
            self.run / name for name in FILES
        )
        self.host = f"unix://{self.socket}"
        self.log = self.data / "engine.log"
        self.bridge = Bridge(f"bb{mark(self.name)}")

    def find(self, program: str) -> str | None:
        """Return the path of one of its programs."""
        return self.suite.program(program) if self.suite else find(program)

    def answers(self) -> bool:
        """Tell whether it runs and answers."""
        return answers(self.host, self.find("docker") or "docker")

    def join(self) -> str:
        """Use it for the rest of this process, start it if it is not there, and return its DOCKER_HOST."""
        for program in ("docker", "dockerd", "containerd"):
            if self.find(program) is None:
                raise Failure(
                    f"no Docker engine answers, and {program} is not installed", "run scripts/setup demo"
                )
        if os.geteuid() != 0:
            raise Failure(
                "no Docker engine answers, and a private one needs root", "start Docker, or become root"
            )
        self.run.mkdir(mode=0o700, exist_ok=True)
        self.data.mkdir(parents=True, exist_ok=True)
        # this waits while an engine is just being ended; what this process becomes holds the lock on
        os.set_inheritable(lock(self.run / "users.lock", fcntl.LOCK_SH), True)
        with locked(self.run / "start.lock"):
            if not (processes.alive(self.keeper) and processes.alive(self.processes) and self.answers()):
                self.end_leftover()
                self._start_keeper()
        return self.host

    def _start_keeper(self) -> None:
        """Start the keeper apart from this process, and wait until the engine answers."""
        begun = time.monotonic()
        entry = self.entry.name if self.entry else ""
        what = f"a private {self.name}" if self.name else "a private Docker engine"
        print(f"engine   starting {what}", file=sys.stderr, flush=True)
        inlet, outlet = os.pipe()
        with self.log.open("wb") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "private_engine.keeper", entry, self.copy],
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
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise Failure(f"{what} did not start:\n{tail}", f"read {self.log}")
        print(f"engine   ready in {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)

    def end_leftover(self) -> None:
        """End what a killed keeper left, or one whose engine is gone."""
        processes.sweep_process(self.keeper)
        self.end()

    def end(self) -> None:
        """End the engine's programs and remove what they left outside the data folder."""
        processes.sweep_process(self.processes)
        self.bridge.remove()
        for name in FILES:
            (self.run / name).unlink(missing_ok=True)
        remove(self.temporary)

    def clean(self) -> None:
        """Remove all that it keeps, unless somebody uses it. Raises Failure."""
        if self.run.is_dir():
            self._lock_out()
            self.end_leftover()
            remove(self.run)
        remove(self.data)

    def _lock_out(self) -> None:
        """Let nobody join it any more, once the keeper has ended it. Raises Failure when somebody uses it."""
        deadline = time.monotonic() + ENDING_SECONDS
        while not self._locked(fcntl.LOCK_EX):
            # what others can share is the users'; the keeper, while it ends the engine, has the lock alone
            if time.monotonic() > deadline and self._locked(fcntl.LOCK_SH):
                what = self.name or "Docker engine"
                raise Failure(f"the private {what} is in use", "wait for the command that uses it")
            time.sleep(0.05)

    def _locked(self, how: int) -> bool:
        """Take the users' lock if that can be had at once, for the rest of this process."""
        try:
            lock(self.run / "users.lock", how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def answers(host: str = "", docker: str = "docker") -> bool:
    """Tell whether an engine answers: at `host`, or wherever the docker client looks for one."""
    command = [docker, *(["--host", host] if host else []), "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False

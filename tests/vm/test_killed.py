"""A microVM whose bottle is killed at any moment of its life leaves nothing on this machine."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from tests.support.bottle import PROGRAM, wait_until
from tests.support.callers import Caller, caller
from tests.support.engines import Docker
from tests.support.killing import states
from tests.support.repos import Repo

from bot_bottle.host.process_tree import start_time

TIMES = 200
OPTIONS = ("--accel", "direct", "-m", "256m", "--workspace", "clone", "--storage", "1g")
# without a network, and with all that belongs to one: the proxy, its relay, a forwarder of ports
NETWORKS = ((), ("--allow", "example.org", "-p", "3000"))
COMMAND = "echo works; for n in 1 2 3; do git commit -q --allow-empty -m $n; echo $n; done; echo over"

# what has been reached, by the last of these that was printed
PHASES = {
    "before the boot": "",
    "boot": r"^clone +[0-9]",
    "probes": r"checking its network isolation",
    "command": r"microVM is up",
    "collecting": r"^over",
}


@dataclass
class Family:
    """The processes of a command, with the namespaces that only they are in.

    These are held open: their numbers are not used again, as long as they are compared.
    """

    processes: dict[int, str] = field(default_factory=dict)
    namespaces: dict[str, int] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)  # of resources, cgroups(7)

    @classmethod
    def of(cls, top: int) -> Family:
        parents: dict[int, int] = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        found = {top}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        own = {*namespaces(os.getpid())}
        made = cls()
        for pid in found:
            with suppress(OSError):
                made.processes[pid] = start_time(pid)
                for path in namespaces(pid).values():
                    handle = os.open(path, os.O_RDONLY)
                    name = str(Path(f"/proc/self/fd/{handle}").readlink())
                    if name in {*own, *made.namespaces}:
                        os.close(handle)
                    else:
                        made.namespaces[name] = handle
                made.groups |= groups(pid)
        return made

    def left(self) -> list[str]:
        """What of it is still there."""
        found = [f"process {pid}" for pid, since in self.processes.items() if start_time(pid) == since != ""]
        for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
            with suppress(OSError):
                if there := {*namespaces(pid)} & {*self.namespaces}:
                    found.append(f"process {pid} in {there}")
        for handle in self.namespaces.values():
            os.close(handle)
        return found


def groups(pid: int) -> set[str]:
    """The control groups of a process; which hierarchies there are may change while a test runs."""
    return {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}


def namespaces(pid: int) -> dict[str, Path]:
    return {str(path.readlink()): path for path in Path(f"/proc/{pid}/ns").iterdir()}


def files(who: Caller) -> set[str]:
    """Every file that bottle could leave, without the records of its runs."""
    cache = who.bottle.cache
    own = cache / "emulation" / "direct"  # which is not found by the search, as a link leads there
    folders = (cache, own, who.folder / "state", who.folder / "tmp")
    found = {str(path) for folder in folders for path in folder.rglob("*")}
    return {path for path in found if "/state/receipts/" not in path}


def mounts() -> set[str]:
    """The mounts, by where they are and of what, not by their numbers."""
    return {" ".join(line.split()[3:5]) for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def belongs(mount: str, who: Caller) -> bool:
    """Whether a mount is of the caller's folders. A namespace could only be mounted there."""
    return str(who.folder) in mount or str(who.bottle.cache) in mount


def phase(out: str, err: str) -> str:
    reached = [name for name, seen in PHASES.items() if re.search(seen, f"{err}\n{out}", re.MULTILINE)]
    return reached[-1]


@dataclass
class Run:
    """A bottle that runs, and what it prints."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def printed(self) -> tuple[str, str]:
        return self.out.read_text(), self.err.read_text()


@contextmanager
def running(who: Caller, repo: Repo, image: str, number: int) -> Iterator[Run]:
    out, err = (who.folder / name for name in ("out", "err"))
    network = NETWORKS[number % len(NETWORKS)]
    options = ("--name", f"killed-{number}", *OPTIONS, *network, "--image", image)
    argv = [*who.bottle.prefix, PROGRAM, "run", *options, "--", "sh", "-c", COMMAND]
    with out.open("wb") as first, err.open("wb") as second:
        process = subprocess.Popen(
            argv,
            env=who.bottle.env({"TMPDIR": str(who.folder / "tmp")}),
            cwd=repo.top,
            stdin=subprocess.DEVNULL,
            stdout=first,
            stderr=second,
        )
    with process:
        yield Run(process, out, err)


def killed(run: Run) -> Family:
    """Kill it, and return what belonged to it then: nothing if it had ended."""
    run.process.send_signal(signal.SIGSTOP)  # so that it starts nothing while its family is listed
    family = Family.of(run.process.pid)
    run.process.kill()
    return family if run.process.wait() == -signal.SIGKILL else Family()


@pytest.fixture
def root(docker: Docker, shared_cache: Path) -> Iterator[Caller]:
    with caller(0, docker, cache=shared_cache) as who:
        (who.folder / "tmp").mkdir()
        yield who
        who.bottle("stop", "-t", "0", *states(who.bottle))


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_200_microvms_killed_at_any_moment_leave_nothing(root: Caller, git_image: str) -> None:
    """The moments are spread over a bottle's life; a tenth of them over the time after its command."""
    repo = root.repo()
    numbers = count()
    lives = [lived(root, repo, git_image, next(numbers)) for _ in NETWORKS]
    files_before, mounts_before = files(root), mounts()
    parts = list(range(TIMES))
    random.shuffle(parts)
    reached: Counter[str] = Counter()
    while parts:
        number = next(numbers)
        kind = number % len(NETWORKS)
        began = time.monotonic()
        with running(root, repo, git_image, number) as run:
            if parts[-1] % 10:
                moment = (parts[-1] + random.random()) / TIMES * lives[kind]  # noqa: S311
                with suppress(subprocess.TimeoutExpired):
                    run.process.wait(moment)
            else:
                wait_until(lambda: run.process.poll() is not None or "over" in run.printed()[0], 300)
                time.sleep(random.uniform(0, 0.5))  # noqa: S311
            family = killed(run)
        printed, progress = run.printed()
        told = f"{number}: killed in {time.monotonic() - began:.2f} s, {phase(printed, progress)}"
        print(told, f"with {len(family.processes)} processes", flush=True)  # noqa: T201 - for `pytest -s`
        if not family.processes:  # it had ended: this machine is faster than it was
            assert run.process.returncode == 0, (told, printed, progress)
            lives[kind] *= 0.95
            removed(root, number)
            continue
        reached[phase(printed, progress)] += 1
        parts.pop()
        left_nothing(root, repo, family, number, told)
        assert files(root) - files_before == set(), told
        assert not {mount for mount in mounts() - mounts_before if belongs(mount, root)}, told
    assert sum(reached.values()) == TIMES
    # a fast machine has checked the isolation before it would print that it does
    assert {*reached} | {"probes"} == {*PHASES}, reached


def lived(who: Caller, repo: Repo, image: str, number: int) -> float:
    """Return for how many seconds a bottle lives that is not killed."""
    began = time.monotonic()
    with running(who, repo, image, number) as run:
        assert run.process.wait() == 0, run.printed()
    life = time.monotonic() - began
    removed(who, number)
    return life


def removed(who: Caller, number: int) -> None:
    """Remove a bottle that has ended, with its clone."""
    assert who.bottle("rm", "--force", f"killed-{number}").code == 0


def left_nothing(who: Caller, repo: Repo, family: Family, number: int, told: str) -> None:
    """Hold that after the next command nothing of a bottle is left but its commits."""
    pruned = who.bottle("prune")
    assert pruned.code == 0, (told, pruned)
    assert family.left() == [], told
    assert family.groups <= groups(os.getpid()), told
    who.left_nothing()
    made = [int(line) for line in (who.folder / "out").read_text().splitlines() if line.isdigit()]
    if made:
        found = repo.git("rev-list", "--count", f"bottle/killed-{number}", "^main")
        assert int(found) >= max(made), told

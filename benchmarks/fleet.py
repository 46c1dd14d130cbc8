"""Bottles on a Ray cluster beside the local fan; on more and more nodes; and many that wait."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.bottle import PROGRAM
from tests.support.callers import git_context
from tests.support.ray_cluster import one_node
from tests.support.ray_nodes import HEAD, nodes
from tests.support.repos import make_repo

from benchmarks.measure import Claim, rounds

BOTTLES = 32
COST = 1.15  # of what the local fan takes
SLEEP = 10  # seconds; bottles that wait for a model
SLEEPING = 8
NODES = {1: ("a",), 2: ("a", "b"), 4: ("a", "b", "c", "d")}
GROWTH = {2: 1.6, 4: 2.5}  # what the throughput of one node is multiplied by
QUEUED = 200
MEMORY = 300.0  # MB

_ENGINE = {name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ}


def measure(count: int, _largest: int) -> list[Claim]:
    """Measure all that is claimed of a cluster."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        repo = make_repo(folder / "repo")
        repo.commit({"README": "readme\n"})
        (folder / "image").mkdir()
        argv = ["docker", "build", "-q", str(git_context(folder / "image"))]
        image = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        fleet = Fleet(folder, image)
        return [*_beside_local(count, fleet), *_growth(count, fleet), *_queued(count, fleet)]


@dataclass(frozen=True)
class Place:
    """Where a fan runs: on the cluster that --on names, or on this machine."""

    on: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()


class Fleet:
    """Somebody with a repository, who runs fans of an image."""

    def __init__(self, folder: Path, image: str) -> None:
        self._folder = folder
        self._image = image
        self._number = 0

    def start(self, count: int, *command: str, at: Place) -> subprocess.Popen[str]:
        """Start a fan."""
        self._number += 1
        own = {"BOT_BOTTLE_CACHE_DIR": "cache", "BOT_BOTTLE_STATE_DIR": "state"}
        folders = {name: str(self._folder / each) for name, each in own.items()}
        options = ("--backend=docker", f"--image={self._image}", f"--name=bench{self._number}", "-m", "256m")
        return subprocess.Popen(
            [
                *at.prefix,
                PROGRAM,
                "fan",
                str(count),
                *([f"--on={at.on}"] if at.on else []),
                *options,
                "--",
                *command,
            ],
            env={**os.environ, **at.env, **folders},
            cwd=self._folder / "repo",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, count: int, *command: str, at: Place) -> float:
        """Run a fan to its end, and return the seconds."""
        begun = time.perf_counter()
        with self.start(count, *command, at=at) as fan:
            _, words = fan.communicate()
        if fan.returncode:
            print(words, file=sys.stderr)
            raise subprocess.CalledProcessError(fan.returncode, fan.args)
        return time.perf_counter() - begun


def _beside_local(count: int, fleet: Fleet) -> list[Claim]:
    slots = os.cpu_count() or 1  # as bottle node announces them
    with one_node(_ENGINE, f'{{"container": {slots}}}', cpus=slots) as cluster:
        here, client = (Place(on, cluster.variables) for on in ("ray", cluster.client))
        for place in (here, client):
            fleet.run(1, "true", at=place)  # what runs has been read from the disk
        found = rounds(
            count,
            here=lambda: fleet.run(BOTTLES, "true", at=here),
            client=lambda: fleet.run(BOTTLES, "true", at=client),
            local=lambda: fleet.run(BOTTLES, "true", at=Place()),
        )
    what = f"{BOTTLES} bottles that run true, on one node"
    return [
        Claim(f"{what}, --on ray", "s", found["here"], found["local"], "the local fan", at_most=COST),
        Claim(f"{what}, --on ray://", "s", found["client"], found["local"], "the local fan", at_most=COST),
    ]


def _growth(count: int, fleet: Fleet) -> list[Claim]:
    """Run bottles that wait on 4 nodes, then on 2 and on 1, with one bottle at a time on each."""
    took: dict[int, list[float]] = {number: [] for number in NODES}
    for _ in range(count):
        with nodes(dict.fromkeys(NODES[4], _ENGINE), slots=1) as cluster:
            for number in sorted(NODES, reverse=True):
                for name in set(cluster.nodes) - {HEAD, *NODES[number]}:
                    cluster[name].kill()
                there = Place(cluster.address, cluster.auth, cluster.prefix)
                fleet.run(number, "true", at=there)  # Ray starts its workers, and has noticed who is gone
                seconds = fleet.run(SLEEPING, "sleep", str(SLEEP), at=there)
                print(f"  {number} nodes: {seconds:.3f}", file=sys.stderr, flush=True)
                took[number].append(SLEEPING * 60 / seconds)
    return [
        Claim(
            f"bottles that sleep {SLEEP} s, {number} nodes",
            "a minute",
            tuple(took[number]),
            tuple(took[1]),
            "1 node",
            at_least=GROWTH.get(number),
            amount=number,
        )
        for number in NODES
    ]


def _queued(count: int, fleet: Fleet) -> list[Claim]:
    """Let many bottles wait, and return the most memory that those who wait for them have held."""
    peaks: dict[str, list[float]] = {"caller": [], "Ray's client server": [], "fan": []}
    for _ in range(count):
        with one_node(_ENGINE, '{"container": 2}', cpus=2) as cluster:
            there = Place(cluster.client, cluster.variables)
            fan = fleet.start(QUEUED, "sh", "-c", "echo begun; sleep 1000", at=there)
            with fan:
                assert fan.stderr
                begun = 0
                while begun < 2:
                    line = fan.stderr.readline()
                    assert line, "the fan has ended"
                    begun += "| begun" in line
                for each in cluster.node.processes():
                    place = Path("/proc", each.split()[0])
                    words = (place / "cmdline").read_bytes()
                    if b"mode=specific-server" in words:
                        peaks["Ray's client server"].append(_peak(place))
                    elif words.startswith(b"ray::Fan"):
                        peaks["fan"].append(_peak(place))
                fan.send_signal(signal.SIGINT)
                for _ in fan.stderr:
                    pass
                _, _, used = os.wait4(fan.pid, 0)
                fan.returncode = 130
            peaks["caller"].append(used.ru_maxrss * 1024 / 1e6)
    return [
        Claim(f"memory with {QUEUED} bottles, {who}", "MB", tuple(held), (MEMORY,), "the bound", at_most=1)
        for who, held in peaks.items()
    ]


def _peak(process: Path) -> float:
    """Return the most memory that a process has held, in MB."""
    found = re.search(r"VmHWM:\s*(\d+) kB", (process / "status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6

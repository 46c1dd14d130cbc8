"""The start of a bottle without KVM: QEMU alone beside smolvm on an emulated host; our part of it; memory."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tests.support.bottle import PROGRAM

from benchmarks import agent_image
from benchmarks.measure import Claim, rounds

HELLO = Path(__file__).parents[1] / "examples" / "hello"
SECONDS = 4.0  # of a bottle whose files are all in the cache
OURS = 0.5  # seconds of them, before QEMU starts and after the command has ended
STAGE = 0.05  # seconds of each stage of ours; they are the same with KVM
MEMORY_MIB = 512
BESIDE = 150_000_000  # bytes of QEMU's memory that are not the guest's

_QEMU = "qemu-system-"
_PAUSE = 0.001  # seconds between two looks for QEMU


def measure(count: int, _largest: int) -> list[Claim]:
    """Measure all that is claimed of a start."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        os.environ["BOT_BOTTLE_STATE_DIR"] = str(folder / "state")
        return [*_hello(count, folder), *_agent(count, folder)]


def _hello(count: int, folder: Path) -> list[Claim]:
    env = {"BOT_BOTTLE_CACHE_DIR": str(folder / "cache")}
    subprocess.run([HELLO / "prepare"], check=True)
    run = partial(_run, agent_image.build(HELLO), ("echo", "there"), env)
    starts = [run("direct"), run("nested")][:1]  # the first one of each makes what the others find
    took = rounds(count, direct=lambda: _noted(starts, run("direct")), nested=lambda: run("nested").seconds)
    measured = starts[1:]
    ours = tuple(each.before + each.after for each in measured)
    beside = tuple(each.beside / 1e6 for each in measured)
    return [
        Claim("bottle run hello", "s", took["direct"], (SECONDS,), "the bound", at_most=1),
        Claim("bottle run hello", "s", took["direct"], took["nested"], "--accel nested", at_most=0.12),
        Claim("of it ours, before and after the guest", "s", ours, (OURS,), "the bound", at_most=1),
        *_own_stages(measured, partial(run, "direct", "--allow", "example.org", "--publish", "3000"), count),
        Claim("QEMU's memory beside the guest's", "MB", beside, (BESIDE / 1e6,), "the bound", at_most=1),
    ]


def _own_stages(closed: Sequence[Start], run: Callable[[], Start], count: int) -> list[Claim]:
    """Return what is claimed of the stages that are bottle's; `run` allows a host and a port.

    Of `load` the floor is apart: Python, with the libraries that a run loads and without what is ours.
    """
    took = {name: [each.stages[name] for each in closed] for name in ("load", "prepare")}
    took["network"] = [run().stages["network"] for _ in range(count)]
    floor = tuple(_floor(_libraries()) for _ in range(count))
    took["load without Python and libraries"] = [each - statistics.median(floor) for each in took["load"]]
    return [
        *(
            Claim(f"the stage {name}", "s", tuple(seconds), (STAGE,), "the bound", at_most=1)
            for name, seconds in took.items()
        ),
        Claim("the stage load", "s", tuple(took["load"]), floor, "Python and the libraries of a run"),
    ]


def _libraries() -> list[str]:
    """Return the modules that a run loads and that are not ours."""
    ours = "bot_bottle.cli.commands.run, bot_bottle.backend.direct.backend"
    program = f"import sys; begun = {{*sys.modules}}; import {ours}; print(*{{*sys.modules}} - begun)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return [name for name in loaded.stdout.split() if not name.startswith("bot_bottle")]


def _floor(libraries: Sequence[str]) -> float:
    """Return the seconds from Python's start until it has loaded these."""
    program = f"import time, {', '.join(libraries)}; print(time.monotonic())"
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return float(done.stdout) - begun


def _agent(count: int, folder: Path) -> list[Claim]:
    image = agent_image.agent_image()
    run = partial(_run, image, ("claude", "--version"))
    packs, roots = [], []
    for _ in range(count):
        with tempfile.TemporaryDirectory(dir=folder) as cold:
            made = run({"BOT_BOTTLE_CACHE_DIR": cold}, "direct", "-m", "2g")
        packs.append(made.stages["pack"] + made.stages.get("export", 0.0))
        roots.append(made.stages["root"])
    env = {"BOT_BOTTLE_CACHE_DIR": str(folder / "cache")}  # where the emulated host is, since _hello
    run(env, "direct", "-m", "2g")  # makes what the others find
    took = rounds(
        count,
        direct=lambda: run(env, "direct", "-m", "2g").seconds,
        nested=lambda: run(env, "nested", "-m", "2g").seconds,
    )
    what = "agent image"
    return [
        Claim(f"{what}: the root image", "s", tuple(roots), tuple(packs), "the cold pack", at_most=0.5),
        Claim(
            f"{what}: claude --version", "s", took["direct"], took["nested"], "--accel nested", at_most=0.2
        ),
    ]


@dataclass(frozen=True)
class Start:
    """One bottle: its seconds, and those before QEMU and after the output.

    `beside` are the bytes of QEMU's memory that are not the guest's.
    """

    seconds: float
    before: float
    after: float
    beside: int
    stages: Mapping[str, float]


def _noted(starts: list[Start], start: Start) -> float:
    starts.append(start)
    return start.seconds


def _run(
    image: str,
    command: tuple[str, ...],
    env: Mapping[str, str],
    accel: Literal["direct", "nested"],
    *options: str,
) -> Start:
    """Run a bottle; the first line of its output is waited for."""
    size = options or ("-m", f"{MEMORY_MIB}m")
    argv = [
        PROGRAM,
        "run",
        "-q",
        "--accel",
        accel,
        "--name",
        "bench",
        *size,
        "--image",
        image,
        "--",
        *command,
    ]
    begun = time.perf_counter()
    with subprocess.Popen(argv, env={**os.environ, **env}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        qemu = _wait(lambda: _qemu(process.pid), process)
        started = time.perf_counter()
        if not process.stdout.readline():
            raise RuntimeError(f"the bottle printed nothing: {process.wait()}")
        said = time.perf_counter()
        beside = _beside(qemu) if accel == "direct" and not options else 0
        process.stdout.read()
        code = process.wait()
    ended = time.perf_counter()
    if code:
        raise subprocess.CalledProcessError(code, argv)
    return Start(ended - begun, started - begun, ended - said, beside, _stages())


def _wait(look: Callable[[], int], process: subprocess.Popen[bytes]) -> int:
    while not (found := look()):
        if process.poll() is not None:
            raise RuntimeError(f"the bottle ended with {process.returncode} before it had a QEMU")
        time.sleep(_PAUSE)
    return found


def _qemu(parent: int) -> int:
    """Return the pid of the QEMU that this process has started; 0 if there is none yet."""
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in children.read_text().split():
            with suppress(FileNotFoundError):  # it has ended since
                if Path(f"/proc/{pid}/exe").readlink().name.startswith(_QEMU):
                    return int(pid)
    return 0


def _beside(pid: int) -> int:
    """Return QEMU's bytes that are not the guest's, whose memory is one mapping (proc_pid_smaps(5))."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    sizes = [int(found) for found in re.findall(r"^Size: +(\d+) kB", text, re.MULTILINE)]
    held = [int(found) for found in re.findall(r"^Rss: +(\d+) kB", text, re.MULTILINE)]
    guest = next(rss for size, rss in zip(sizes, held, strict=True) if size == MEMORY_MIB << 10)
    return (sum(held) - guest) << 10


def _stages() -> Mapping[str, float]:
    """Return the seconds of each stage of the last run, as its record has them."""
    folder = Path(os.environ["BOT_BOTTLE_STATE_DIR"], "receipts")
    seconds: dict[str, float] = json.loads(max(folder.glob("*.json")).read_text())["seconds"]
    return seconds

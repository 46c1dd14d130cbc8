"""The methods of making an artifact from an image, timed: which of them work here, and which `auto` uses."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct, field

from bot_bottle import api as artifacts
from bot_bottle.bottle.gc import run_context
from bot_bottle.engine.source import Source
from bot_bottle.errors import BottleError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.pack.options import PackerName, Transport
from bot_bottle.structs import replace
from bot_bottle.vm.accel import Accel


class Way(Struct, frozen=True):
    """A packer, and how the image gets to it."""

    packer: PackerName
    transport: Transport


NATIVE = (Way("native", "direct"), Way("native", "save"), Way("native", "push"))
SMOLVM = (Way("smolvm", "save"),)


class Timing(Struct, frozen=True):
    """The time of a method in seconds, as medians: `cold` with an empty cache, `warm` with unchanged input.

    `stages` are the parts of the cold time; `size` is the artifact's in bytes. `failure` says why the method
    does not work here; then there are no figures.
    """

    way: Way
    cold: float = 0.0
    warm: float = 0.0
    size: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    failure: str = ""


class Report(Struct, frozen=True):
    """All methods for one image. `first_build` and `next_build` are seconds, None where nothing was built."""

    image_id: str
    timings: tuple[Timing, ...]
    first_build: float | None = None
    next_build: float | None = None

    @property
    def auto(self) -> tuple[Way, str]:
        """Return the method that `--transport auto` uses here, and why."""
        direct = next(timing for timing in self.timings if timing.way == NATIVE[0])
        if direct.failure:
            return NATIVE[1], direct.failure
        return direct.way, "the layers can be read from the engine's storage, without an export"


def measure(
    source: Source,
    ways: Iterable[Way] = NATIVE,
    *,
    rounds: int = 3,
    engine: str | None = None,
    accel: Accel = "auto",
    progress: Progress | None = None,
) -> Report:
    """Build a source twice, if it has to be built, and run each method `rounds` times, cold and warm.

    The user's cache is neither used nor changed. A method that does not work has a `failure`. Raises the
    BottleError of the build.
    """
    progress = progress or Progress()
    first_build = next_build = None
    image_id, seconds = _build(source, engine)
    if source.build is not None:
        first_build = seconds
        again = replace(source.build, no_cache=False, pull=False)
        image_id, next_build = _build(Source(build=again), engine)
    image = Source(image=image_id)
    timings = []
    with run_context() as run:
        for way in ways:
            with progress.stage(f"{way.packer} {way.transport}") as stage:
                timing = _timed(image, way, rounds, engine, accel, run.folder("bench"))
                stage.conclude(timing.failure and "does not work here")
            timings.append(timing)
    return Report(image_id, tuple(timings), first_build, next_build)


def _build(source: Source, engine: str | None) -> tuple[str, float]:
    begun = time.monotonic()
    image_id = artifacts.build(source, engine=engine)
    return image_id, time.monotonic() - begun


def _timed(image: Source, way: Way, rounds: int, engine: str | None, accel: Accel, folder: Path) -> Timing:
    cold: list[float] = []
    warm: list[float] = []
    stages: list[dict[str, float]] = []
    size = 0
    try:
        with paths.override_cache_dir(folder):
            for _ in range(rounds):
                shutil.rmtree(folder)
                folder.mkdir()
                for times in (cold, warm):
                    begun, shown = time.monotonic(), Progress()
                    made = artifacts.convert(
                        image,
                        engine=engine,
                        packer=way.packer,
                        accel=accel,
                        transport=way.transport,
                        progress=shown,
                    )
                    times.append(time.monotonic() - begun)
                    size = made.entry.size
                    if times is cold:
                        stages.append(shown.seconds)
    except BottleError as error:
        return Timing(way, failure=": ".join(part for part in (error.message, error.why) if part))
    medians = {name: statistics.median(each.get(name, 0.0) for each in stages) for name in stages[0]}
    return Timing(way, statistics.median(cold), statistics.median(warm), size, medians)

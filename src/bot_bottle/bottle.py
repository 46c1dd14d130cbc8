"""The pipeline: a spec becomes a plan that can be shown, a plan becomes a running bottle.

`prepare` touches nothing outside the caches; `launch` leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bot_bottle import paths, rundir, strays
from bot_bottle.backend import smolmachines
from bot_bottle.backend.smolmachines import Bottle, Launch
from bot_bottle.conversion import Conversion, Converter
from bot_bottle.errors import SpecError
from bot_bottle.progress import Progress
from bot_bottle.registry import container
from bot_bottle.rundir import RunDir
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.smolmachine.cache import Explanation
from bot_bottle.spec import DEFAULT_CPUS, BottleSpec, PackerName, Source
from bot_bottle.verify.verify import Report
from bot_bottle.verify.verify import verify as verify_artifact
from bot_bottle.vm.host import Accel

SWEEPERS: dict[str, rundir.Sweeper] = {
    "machine": smolmachines.sweep_machine,
    "process": strays.sweep,
    container.STRAY: container.sweep,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a bottle will be: the artifact it boots and the command it runs. Nothing has been started."""

    spec: BottleSpec
    conversion: Conversion
    launch: Launch


@contextmanager
def workspace() -> Iterator[RunDir]:
    """Hold a run folder, after what dead commands left has been swept."""
    rundir.sweep(SWEEPERS)
    with rundir.run_dir() as run:
        yield run


def build(source: Source, *, engine: str | None = None, progress: Progress | None = None) -> str:
    """Give the id of a source's image, `sha256:...`, building it first if it is a Dockerfile's folder."""
    with workspace() as run:
        return Converter(run, progress or Progress(), engine=engine).image_id(source)


def convert(
    source: Source,
    *,
    engine: str | None = None,
    packer: PackerName = "native",
    accel: Accel = "auto",
    progress: Progress | None = None,
) -> Conversion:
    """Give the `.smolmachine` of a Dockerfile's folder, an image or an archive, made or from the cache.

    Raises the BottleError of the stage that failed.
    """
    with workspace() as run:
        return Converter(run, progress or Progress(), engine=engine, packer=packer, accel=accel).convert(
            source
        )


def why(
    source: Source,
    *,
    engine: str | None = None,
    packer: PackerName = "native",
    progress: Progress | None = None,
) -> Explanation:
    """Tell whether `convert` would find the source's artifact in the cache; if not, why not."""
    with workspace() as run:
        return Converter(run, progress or Progress(), engine=engine, packer=packer).why(source)


def verify(
    artifact: Path,
    source: Source | None = None,
    *,
    engine: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verify every byte of an artifact, and that it is what its source's image is. No machine is started.

    Raises ArtifactError and ImageError for what is damaged; differences are in the report.
    """
    progress = progress or Progress()
    with workspace() as run, ExitStack() as stack:
        size = artifact_format.read(artifact).size
        image = (
            stack.enter_context(Converter(run, progress, engine=engine).opened(source)) if source else None
        )
        with progress.stage("verify", size) as stage:
            return verify_artifact(artifact, image, run.folder("verify"), stage.advance)


def prepare(spec: BottleSpec, converter: Converter) -> Plan:
    """Build the image, make or find its artifact, and settle what will run in it."""
    conversion = converter.convert(spec.source)
    manifest = artifact_format.read(conversion.entry.path).manifest
    command = spec.command or (*manifest.entrypoint, *manifest.cmd)
    if not command:
        raise SpecError("the image names no command", next_step="give one: bottle run . -- COMMAND")
    env = dict(spec.env)
    image_env = dict(item.partition("=")[::2] for item in manifest.env)
    launch = Launch(
        slug=spec.slug,
        artifact=conversion.entry.path,
        command=command,
        env={**smolmachines.default_path({**image_env, **env}), **env},
        user=spec.user,
        workdir=spec.workdir or manifest.workdir or "/",
        cpus=spec.cpus or min(DEFAULT_CPUS, os.cpu_count() or 1),
        memory_mib=spec.memory_mib,
    )
    return Plan(spec, conversion, launch)


@contextmanager
def launch(plan: Plan, run: RunDir, progress: Progress, *, accel: Accel = "auto") -> Iterator[Bottle]:
    """Boot a plan's bottle; when the block ends, by any way, the bottle is gone."""
    with (
        _only_one(plan.spec.slug),
        plan.conversion.entry.hold(),
        smolmachines.launch(plan.launch, run, progress, accel=accel) as bottle,
    ):
        yield bottle


@contextmanager
def _only_one(slug: str) -> Iterator[None]:
    """Hold a bottle's name on this host."""
    folder = paths.runs_dir() / "names"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(folder / slug, timeout=0):
            yield
    except Timeout:
        raise SpecError(f"a bottle named {slug} is running", next_step="give another --name") from None


def run(
    spec: BottleSpec,
    *,
    engine: str | None = None,
    packer: PackerName = "native",
    accel: Accel = "auto",
    progress: Progress | None = None,
    tty: bool = False,
) -> int:
    """Run a spec's command in a microVM on our own streams and give its exit status.

    Raises the BottleError of the stage that failed, Interrupted after a second Ctrl-C.
    """
    progress = progress or Progress()
    with workspace() as folder:
        converter = Converter(folder, progress, engine=engine, packer=packer, accel=accel)
        plan = prepare(spec, converter)
        with launch(plan, folder, progress, accel=accel) as bottle:
            return bottle.run(tty=tty)

"""The Python interface: build an image, convert it to an artifact, explain the cache, verify and scan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from bot_bottle.bottle.gc import run_context
from bot_bottle.cache.cache import Explanation
from bot_bottle.engine.source import Source
from bot_bottle.host.progress import Progress
from bot_bottle.pack.converter import Conversion, Converter
from bot_bottle.pack.options import ConvertOptions, PackerName, Shared, Transport, Via
from bot_bottle.smolmachine import format as artifact_format

if TYPE_CHECKING:  # imported lazily: most commands do not need it
    from bot_bottle.scan.credential_files import Finding
    from bot_bottle.verify.verify import Report
    from bot_bottle.vm.accel import Accel


def build(source: Source, *, engine: str | None = None, progress: Progress | None = None) -> str:
    """Return the id of a source's image, `sha256:...`, building it first if it is a Dockerfile's folder."""
    with run_context() as run:
        return Converter(run, progress or Progress(), ConvertOptions(engine)).image_id(source)


def convert(
    source: Source,
    *,
    engine: str | None = None,
    packer: PackerName = "native",
    accel: Accel = "auto",
    via: Via | None = None,
    transport: Transport = "auto",
    max_image_size: int | None = None,
    shared: Shared | None = None,
    on_conversion: Callable[[Source, Conversion, Converter], None] | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Return the `.smolmachine` of a Dockerfile's folder, an image or an archive, made or from the cache.

    `via` and `transport` are as `ConvertOptions` has them; `max_image_size`, in bytes, is for the native
    packer (default: 64 GiB). `shared` is a cache of other machines' artifacts, and
    `on_conversion` is called with the result, and may refuse it by what it raises.

    Raises the BottleError of the stage that failed.
    """
    options = ConvertOptions(engine, packer, accel, via, transport, max_image_size, shared, on_conversion)
    with run_context() as run:
        return Converter(run, progress or Progress(), options).convert(source)


def why(
    source: Source,
    *,
    engine: str | None = None,
    packer: PackerName = "native",
    progress: Progress | None = None,
) -> Explanation:
    """Return whether `convert` would find the source's artifact in the cache; if not, why not."""
    with run_context() as run:
        options = ConvertOptions(engine, packer)
        return Converter(run, progress or Progress(), options).why(source)


def verify(
    artifact: Path,
    source: Source | None = None,
    *,
    engine: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verify every byte of an artifact, and compare it with the image of a source. No machine is started.

    Raises ArtifactError and ImageError for damaged files; differences are in the report.
    """
    from bot_bottle.verify.verify import verify as verify_artifact

    progress = progress or Progress()
    with run_context() as run, ExitStack() as stack:
        size = artifact_format.read(artifact).size
        image = (
            stack.enter_context(Converter(run, progress, ConvertOptions(engine)).opened(source))
            if source
            else None
        )
        with progress.stage("verify", size) as stage:
            return verify_artifact(artifact, image, run.folder("verify"), stage.advance)


def scan(
    target: Path | Source,
    *,
    exclude: Sequence[str] = (),
    engine: str | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """Search an artifact (a path) or a source's image for secrets; return where they are, layer by layer.

    Findings in paths that match a pattern of `exclude` are left out (`*` matches anything, including `/`).

    Raises ArtifactError and ImageError for damaged files.
    """
    from bot_bottle.scan.scan import scan_artifact, scan_image

    progress = progress or Progress()
    if isinstance(target, Path):
        with progress.stage("scan", artifact_format.read(target).size) as stage:
            return _included(scan_artifact(target, stage.advance), exclude)
    with (
        run_context() as run,
        Converter(run, progress, ConvertOptions(engine)).opened(target) as image,
        progress.stage("scan", sum(layer.size for layer in image.layers)) as stage,
    ):
        return _included(scan_image(image, stage.advance), exclude)


def _included(found: Iterable[Finding], exclude: Sequence[str]) -> list[Finding]:
    once = dict.fromkeys(found)
    return [each for each in once if not any(fnmatch(each.path, pattern) for pattern in exclude)]

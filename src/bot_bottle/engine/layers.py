"""An image with layers of ours on top, and the C library of an image: what such a layer has to suit."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bot_bottle.engine.build_names import named_for_build
from bot_bottle.engine.commands import NO_MOUNTS, BuildRequest
from bot_bottle.engine.engine import Engine
from bot_bottle.engine.identity import EngineImage
from bot_bottle.errors import AgentError, EngineError
from bot_bottle.host.rundir import RunDir
from bot_bottle.secrets.build import MountOptions

if TYPE_CHECKING:
    from bot_bottle.agent.profile import Libc

_LABEL = "bot-bottle.look"
_STRAY = "look-container"
_MUSL = {"amd64": "/lib/ld-musl-x86_64.so.1", "arm64": "/lib/ld-musl-aarch64.so.1"}
_GLIBC = {"amd64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # docker's, of an image without one


def add_layers(
    engine: Engine,
    image: EngineImage,
    tars: Sequence[Path],
    path: str,
    run: RunDir,
    say: Callable[[str], None],
) -> EngineImage:
    """Return an image with each tar unpacked as a layer, and a folder at the end of its PATH.

    Raises BuildError, EngineError.
    """
    with named_for_build(engine, image.id, run) as (base, env), engine.scratch() as folder:
        lines = [f"FROM {base}"]
        for number, tar in enumerate(tars):
            _link(tar, folder / f"{number}.tar")
            lines.append(f"ADD {number}.tar /")
        lines.append(f"ENV PATH=${{PATH:-{_PATH}}}:{path}")
        (folder / "Dockerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
        mounts = MountOptions(NO_MOUNTS.argv, NO_MOUNTS.env | env)
        return engine.build_image(BuildRequest(folder, folder / "Dockerfile", mounts=mounts), say)


def libc_of(engine: Engine, image: EngineImage, arch: str, run: RunDir) -> Libc:
    """Return the C library of an image, by its program loader. Raises AgentError, EngineError.

    A container is created from it and not started.
    """
    label = f"{_LABEL}={run.path.name}"
    containers = engine.containers
    containers.record(run, _STRAY, label)
    try:
        made = containers.create(
            image.id, ["none"], ["--pull=never", "--network=none", f"--label={label}"]
        ).checked()
        glibc = _link_at(engine, made.text, _GLIBC[arch])
        # a musl image may have a loader of that name for programs made for glibc
        if glibc is not None and "musl" not in glibc and "gcompat" not in glibc:
            return "glibc"
        if _link_at(engine, made.text, _MUSL[arch]) is not None:
            return "musl"
    finally:
        containers.remove(label)
    raise AgentError(
        "the image has neither glibc nor musl, which programs of agents need",
        next_step="use a base image with one, for example Debian's or Alpine's",
    )


def _link_at(engine: Engine, container: str, path: str) -> str | None:
    """Return where a link of a container leads, "" for another file; None where there is nothing."""
    done = engine.containers.copy(container, path)
    if not done.code:
        try:
            with tarfile.open(fileobj=io.BytesIO(done.stdout), mode="r|") as tar:
                member = next(iter(tar), None)
                return member.linkname if member is not None and member.issym() else ""
        except tarfile.TarError:
            return ""
    complaint = done.complaint.lower()
    if "no such" not in complaint and "could not find" not in complaint:
        raise EngineError(f"{engine.name} could not read a file of the image", why=done.complaint)
    return None


def _link(source: Path, target: Path) -> None:
    """Make a second name of a file, or a copy where it is on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

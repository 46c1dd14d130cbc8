"""Which builder carries out docker's builds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bot_bottle.engine.commands import Builder, buildx_argv
from bot_bottle.host import process

_OLDEST_BUILDX = (0, 6)  # the first with --metadata-file


def choose_builder(
    client: str, server: str, served_by_podman: bool, has_buildx: bool, environ: Mapping[str, str]
) -> Builder:
    """Return the builder of docker's builds; DOCKER_BUILDKIT, if the user set it, decides.

    Clients before 23 contain BuildKit, later ones need the buildx plugin; servers have it from 18.09 on,
    podman's docker service does not.
    """
    modern: Builder = "buildx" if _release(client) >= (23, 0) else "buildkit"
    if wish := environ.get("DOCKER_BUILDKIT"):
        return "classic" if wish in ("0", "f", "F", "false", "False", "FALSE") else modern
    if served_by_podman or _release(server) < (18, 9) or (modern == "buildx" and not has_buildx):
        return "classic"
    return modern


def has_buildx(program: Path, timeout: float) -> bool:
    """Return whether a docker client has a recent buildx plugin.

    A plugin without a release in its version was built from source, and counts as recent.
    """
    try:
        done = process.run(buildx_argv(program), timeout=timeout, check=False)
    except process.CommandFailed:
        return False
    found = re.search(r" v?(\d+\.\d+)", done.text)
    release = _release(found[1]) if found else (0, 0)
    return done.code == 0 and not (0, 0) < release < _OLDEST_BUILDX


def _release(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)

"""The real agent image that figures are for: examples/agent, about 1 GB."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "agent"


def agent_image() -> str:
    """Give the image's id, built in docker if it is not there. The first time takes minutes."""
    subprocess.run([EXAMPLE / "prepare"], check=True)
    return build(EXAMPLE)


def changed(base: str, folder: Path, size: int) -> str:
    """Give the id of an image that has a new layer of `size` random bytes on top of another."""
    (folder / "file").write_bytes(os.urandom(size))
    (folder / "Dockerfile").write_text(f"FROM {base}\nCOPY file /changed\n")
    return build(folder)


def build(folder: Path) -> str:
    """Build a folder's Dockerfile, by the builder that every docker has; give the image's id."""
    env = {**os.environ, "DOCKER_BUILDKIT": "0"}
    command = ["docker", "build", "--quiet", str(folder)]
    return subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout.strip()

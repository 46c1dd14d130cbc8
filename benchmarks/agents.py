"""Agents: the start of one beside `bottle run` of an image that has it; an update's repack."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from tests.support.bottle import PROGRAM
from tests.support.repos import make_repo

from benchmarks import agent_image
from benchmarks.measure import Claim, rounds

_BASE = "bot-bottle-base:bookworm"
_BEFORE = "2.1.331"  # the version before the pinned one
_DOCKERFILE = f"FROM {_BASE}\nWORKDIR /workspace\n"


def measure(count: int, _largest: int) -> list[Claim]:
    """Measure all that is claimed of agents."""
    subprocess.run([agent_image.EXAMPLE / "prepare", "base"], check=True)
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        os.environ["BOT_BOTTLE_STATE_DIR"] = str(folder / "state")
        os.environ["BOT_BOTTLE_CACHE_DIR"] = str(folder / "cache")
        plain = make_repo(folder / "plain")
        plain.commit({"Dockerfile": _DOCKERFILE})
        return [*_starts(count, folder, plain.top), *_updates(count, folder, plain.top)]


def _starts(count: int, folder: Path, plain: Path) -> list[Claim]:
    """Measure `bottle claude -- --version` with everything in the cache."""
    claims = []
    for backend in (("--backend=docker",), ("--accel=direct",)):
        ours = ("claude", *backend, plain, "--", "--version")
        _run(*ours)
        own = _with_agent(folder / backend[0].strip("-"), folder / "cache" / "agents")
        options = ("--workspace=clone", "--allow=api.anthropic.com:443")
        theirs = ("run", *backend, *options, own, "--", "claude", "--version")
        _run(*theirs)
        took = rounds(count, ours=lambda argv=ours: _run(*argv), theirs=lambda argv=theirs: _run(*argv))  # type: ignore[misc]
        what = f"bottle claude {backend[0]} -- --version"
        claims.append(Claim(what, "s", took["ours"], took["theirs"], "in the Dockerfile", at_most=1.1))
    return claims


def _updates(count: int, folder: Path, plain: Path) -> list[Claim]:
    """Measure the pack of an image with another version of its agent."""
    repacks, colds = [], []
    agents = folder / "cache" / "agents"
    for _ in range(count):
        for version in (_BEFORE, "2.1.332"):  # the layer, and the image in the engine
            _run("claude", "--backend=docker", "--agent", f"claude@{version}", plain, "--", "--version")
        with tempfile.TemporaryDirectory(dir=folder) as cold:
            (Path(cold) / "agents").mkdir()
            # which image has the agent: of its layer nothing is in the cache, as if another user had made it
            subprocess.run(["cp", "-al", agents / "images", f"{cold}/agents"], check=True)
            colds.append(_packed(plain, _BEFORE, cold))
            subprocess.run(["cp", "-al", f"{agents}/.", f"{cold}/agents"], check=True)
            repacks.append(_packed(plain, "2.1.332", cold))
    what = "an agent's update: pack"
    return [Claim(what, "s", tuple(repacks), tuple(colds), "the cold pack", at_most=0.3)]


def _with_agent(folder: Path, agents: Path) -> Path:
    """Make a repository whose Dockerfile has the agent: the same files as in its layer."""
    repo = make_repo(folder)
    [layer] = agents.glob("*/layer.tar")
    (folder / "claude").write_text(
        '#!/bin/sh\nexec /opt/bot-bottle/packages/anthropic-ai-claude-code/claude "$@"\n'
    )
    (folder / "claude").chmod(0o755)
    (folder / "packages.tar").hardlink_to(layer)
    repo.write({".gitignore": "packages.tar\n"})
    lines = "ADD packages.tar /\nCOPY claude /usr/local/bin/claude\n"
    repo.git("add", ".gitignore", "claude")
    (folder / "Dockerfile").write_text(_DOCKERFILE + lines)
    repo.git("add", "Dockerfile")
    repo.git("commit", "-q", "-m", "one")
    return folder


def _packed(folder: Path, version: str, cache: str) -> float:
    """Pack an image with an agent; give the seconds of the export and the packer."""
    argv: list[str | Path] = [PROGRAM, "pack", "-q", "--json", "--agent", f"claude@{version}", folder]
    env = {**os.environ, "BOT_BOTTLE_CACHE_DIR": cache}
    made = json.loads(subprocess.run(argv, env=env, check=True, capture_output=True).stdout)
    assert made["cache"] == "miss"
    seconds: dict[str, float] = made["seconds"]
    return seconds["pack"] + seconds.get("export", 0.0)


def _run(*argv: str | Path) -> None:
    done = subprocess.run([PROGRAM, *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)

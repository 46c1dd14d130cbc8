"""Beside `smolvm pack create`, of the same archive on the same host: an emulated one with a good KVM."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from tests.support import nested
from tests.support.bottle import PROGRAM
from tests.support.images import busybox_context

from benchmarks import agent_image
from benchmarks.measure import Claim
from bot_bottle.host import paths

_TIMEOUT = 3600  # seconds

# of smolvm's way only smolvm itself is counted; of ours all, from the start of the command to its end
_JOB = r"""
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/fast/home
export BOT_BOTTLE_CACHE_DIR=/fast/cache
unset DOCKER_HOST
export SMOLVM_VM_UID_DROP=off  # or smolvm cannot read what it has itself put aside
mkdir /fast/home && cp /results/image.tar /fast/image.tar && chmod 644 /fast/image.tar && cd /results
@bottle@ doctor > doctor 2>&1  # reads what both will need once
for round in $(seq @count@); do
  rm -rf /fast/cache/smolmachines /fast/cache/headers
  date +%s.%N >> begun
  @bottle@ pack --json --archive /fast/image.tar >> ours 2>> err
  date +%s.%N >> ended
  for try in 1 2 3; do  # smolvm's machine does not always come up here
    @bottle@ pack --json --packer smolvm --archive /fast/image.tar >> theirs 2>> err && break
  done
done
"""


def measure(count: int, _largest: int) -> list[Claim]:
    """Pack a small image by both; smolvm cannot pack a large one on an emulated host."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        results, fast = folder / "results", folder / "fast"
        results.mkdir()
        (fast / "cache").mkdir(parents=True)
        fast.chmod(0o755)
        image = agent_image.build(busybox_context(folder / "context"))
        subprocess.run(["docker", "save", "--output", results / "image.tar", image], check=True)
        os.environ["BOT_BOTTLE_CACHE_DIR"] = str(folder / "cache")
        subprocess.run([PROGRAM, "doctor"], capture_output=True, check=False)  # makes smolvm ready
        smolvm = paths.cache_dir() / "smolvm"
        subprocess.run(["cp", "-a", "--sparse=always", smolvm, fast / "cache"], check=True)
        job = _JOB.replace("@bottle@", str(PROGRAM)).replace("@count@", str(count))
        console = nested.run(job, results, fast, timeout=_TIMEOUT, memory="11G", processors=2)
        return _claims(results, console)


def _claims(results: Path, console: str) -> list[Claim]:
    ours, theirs = (
        [json.loads(line) for line in (results / name).read_text().splitlines()]
        for name in ("ours", "theirs")
    )
    if not theirs or len(ours) != len(theirs):
        raise RuntimeError(f"{(results / 'err').read_text()}\n{console[-2000:]}")
    begun, ended = (
        [float(line) for line in (results / name).read_text().split()] for name in ("begun", "ended")
    )
    seconds = tuple(end - begin for begin, end in zip(begun, ended, strict=True))
    stages, packs = (tuple(each["seconds"]["pack"] for each in made) for made in (ours, theirs))
    our_sizes, their_sizes = (tuple(each["size"] / 1e6 for each in made) for made in (ours, theirs))
    than = "smolvm pack create"
    return [
        Claim("pack of a small archive, emulated", "s", seconds, packs, than, at_most=1 / 10),
        Claim("the same, without our start", "s", stages, packs, than, at_most=1 / 10),
        Claim("size of the artifact", "MB", our_sizes, their_sizes, than, at_most=1.02),
    ]

"""`bottle bench`: every way is gone, what does not work is told, and the user's cache is left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.engine.conftest import Context
from tests.support.bottle import Bottle
from tests.support.engines import Docker


def test_bench_times_every_transport(bottle: Bottle, context: Context) -> None:
    folder = context("COPY file /file", file=b"given")
    report = json.loads(bottle("bench", "--json", "--rounds", "1", folder).out)
    assert report["image_id"] == bottle("pack", "--json", folder).line.split('"image_id": "')[1][:71]
    assert report["first_build"] > 0
    assert report["next_build"] > 0
    assert [each["way"]["transport"] for each in report["timings"]] == ["direct", "save", "push"]
    for each in report["timings"]:
        assert each["failure"] == ""
        assert each["cold"] >= sum(each["stages"].values()) > 0
        assert each["cold"] > each["warm"] > 0  # a warm one only looks its artifact up
        assert set(each["stages"]) == {"export", "pack"}
    assert len({each["size"] for each in report["timings"]}) == 1
    assert (report["auto"]["packer"], report["auto"]["transport"]) == ("native", "direct")


def test_bench_leaves_the_cache_alone(bottle: Bottle, image: str) -> None:
    path = bottle("pack", "--image", image).path
    before = {each: each.stat().st_mtime_ns for each in (path, *(bottle.cache / "headers").iterdir())}
    done = bottle("bench", "-q", "--rounds", "1", "--image", image)
    assert done.code == 0, done
    assert {each: each.stat().st_mtime_ns for each in before} == before
    assert bottle.artifacts == [path]
    assert not bottle.leftovers
    words = done.out.splitlines()
    assert words[0].split() == ["image", image[:19]]
    assert [line.split()[:2] for line in words[2:6]] == [
        ["packer", "transport"],
        ["native", "direct"],
        ["native", "save"],
        ["native", "push"],
    ]
    assert words[-1].startswith("auto takes native, direct: ")


def test_a_transport_that_does_not_work_is_in_the_report(
    bottle: Bottle, docker: Docker, image: str, tmp_path: Path
) -> None:
    """An engine that says it keeps its images where there are none, and not in containerd's store."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    root = docker.docker("info", "--format", "{{.DockerRootDir}}").decode().strip()
    change = f"s,{root},/nowhere,g; s,io.containerd.snapshotter.v1,overlayfs,g"
    script = f'case "$1" in info) docker "$@" | sed "{change}";; *) exec docker "$@";; esac\n'
    program.write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\n{script}")
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    report = json.loads(bottle("bench", "--json", "--rounds", "1", "--image", image, env=path).out)
    assert report["first_build"] is None
    failures = [each["failure"] for each in report["timings"]]
    assert "cannot be read from the storage of docker" in failures[0]
    assert failures[1:] == ["", ""]
    assert report["auto"]["transport"] == "save"
    assert report["auto"]["why"] == failures[0]
    assert not bottle.leftovers


def test_an_image_that_cannot_be_built_is_not_measured(bottle: Bottle, context: Context) -> None:
    bottle("bench", context("RUN exit 3")).failed(104, "did not build")
    assert not bottle.leftovers

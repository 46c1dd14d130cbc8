"""podman builds and runs for a root who may not raise limits, as in most CI containers."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

from tests.support.bottle import Bottle
from tests.support.images import busybox_context

DOCKERFILE = (
    "FROM scratch\nCOPY rootfs /\nENV PATH=/bin\nRUN ulimit -Hn > /files && ulimit -Hu > /processes\n"
)


def test_a_build_has_the_limits_of_its_caller(podman_bottle: Bottle, tmp_path: Path) -> None:
    context = busybox_context(tmp_path / "context", DOCKERFILE)
    argv = ("run", "-q", "--engine=podman", "--backend=docker", str(context), "--", "/bin/sh", "-c")
    files, processes = podman_bottle(*argv, "/bin/cat /files /processes").out.split()
    assert 0 < int(files) <= resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert 0 < int(processes) <= 32768


def test_root_without_the_right_to_raise_limits_can_build(podman_bottle: Bottle, tmp_path: Path) -> None:
    context = busybox_context(
        tmp_path / "context", DOCKERFILE.replace("RUN", "ENV LOWERED=1\nRUN")
    )  # no cached step
    without = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")
    lowered = ("prlimit", "--nofile=4000:4000", "--nproc=9000:9000", *without)
    bottle = replace(podman_bottle, prefix=lowered)
    argv = ("run", "-q", "--engine=podman", "--backend=docker", str(context), "--", "/bin/sh", "-c")
    done = bottle(*argv, "/bin/cat /files /processes; ulimit -Hn; ulimit -Hu")
    assert done.out.split() == ["4000", "9000"] * 2, done

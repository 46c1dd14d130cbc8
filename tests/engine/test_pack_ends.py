"""A pack that is ended in the middle, at every stage: nothing runs on, nothing is left, nothing is half."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.conftest import Context
from tests.support.bottle import Bottle, Ended, end, wait_until
from tests.support.engines import Docker, Podman
from tests.support.images import busybox_context

LARGE = 60_000_000  # bytes that do not compress: exporting and packing them takes about a second

STAGES = ("build", "export", "pack", "wait")


@pytest.fixture(scope="module")
def large(docker: Docker, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that takes a while."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "large").write_bytes(os.urandom(LARGE))
    (folder / "Dockerfile").write_text(f"FROM {base_image}\nCOPY large /large\n")
    return docker.build(folder)


class Under:
    """A pack that has come to a stage."""

    def __init__(self, bottle: Bottle, stage: str, context: Context, large: str) -> None:
        self.bottle = bottle
        self.other: subprocess.Popen[str] | None = None
        if stage == "build":
            folder = context("RUN echo begun > /begun && sleep 300")
            self.process = bottle.start("pack", "-v", folder)
            reached: Callable[[], object] = lambda: [  # noqa: E731
                each for each in bottle.processes() if "docker build --iidfile" in each
            ]
        elif stage == "wait":
            self.other = bottle.start("pack", "--transport=save", "--image", large)
            # it has the lock when it exports, and is stopped until the second one waits for that
            wait_until(lambda: list(bottle.cache.glob("runs/run-*/export/*")))
            self.other.send_signal(signal.SIGSTOP)
            self.process = bottle.start("pack", "--transport=save", "--image", large)
            assert self.process.stderr is not None
            assert "waiting" in self.process.stderr.readline()
            reached = lambda: True  # noqa: E731
        else:
            self.process = bottle.start("pack", "--transport=save", "--image", large)
            pattern = {"export": "runs/run-*/export/*", "pack": "smolmachines/*.tmp"}[stage]
            reached = lambda: [  # noqa: E731
                path for path in bottle.cache.glob(pattern) if path.exists() and path.stat().st_size
            ]
        wait_until(reached)

    def ended(self) -> Ended:
        if self.other is not None:
            self.other.send_signal(signal.SIGCONT)
            assert end(self.other).code == 0
        return end(self.process)


@pytest.mark.parametrize(
    ("signum", "stage"),
    [
        *((signal.SIGINT, stage) for stage in STAGES),
        (signal.SIGTERM, "build"),
        (signal.SIGHUP, "export"),
        # one handler has them all
        *(
            pytest.param(signum, stage, marks=pytest.mark.slow)
            for signum, done in ((signal.SIGTERM, "build"), (signal.SIGHUP, "export"))
            for stage in STAGES
            if stage != done
        ),
    ],
)
def test_a_signal_ends_a_pack_and_leaves_nothing(
    bottle: Bottle, context: Context, large: str, stage: str, signum: signal.Signals
) -> None:
    under = Under(bottle, stage, context, large)
    under.process.send_signal(signum)
    done = under.ended()
    assert (done.code, done.out) == (128 + signum, "")
    assert "interrupted" in done.err
    assert "Traceback" not in done.err
    assert not bottle.leftovers
    assert len(bottle.artifacts) == (stage == "wait")


def test_signals_that_the_caller_ignores_do_not_end_a_pack(
    bottle: Bottle, context: Context, large: str
) -> None:
    """As nohup has SIGHUP ignored, and a shell SIGINT by what it starts in the background."""
    ignoring = replace(bottle, prefix=("sh", "-c", "trap '' INT HUP; exec \"$@\"", "sh"))
    under = Under(ignoring, "export", context, large)
    for signum in (signal.SIGINT, signal.SIGHUP):
        under.process.send_signal(signum)
    assert under.ended().path
    assert not bottle.leftovers
    under = Under(ignoring, "build", context, large)
    under.process.send_signal(signal.SIGTERM)
    assert under.ended().code == 128 + signal.SIGTERM
    assert not bottle.leftovers


@pytest.mark.parametrize(
    "stage",
    ["export", *(pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES if stage != "export")],
)
def test_several_signals_at_once_end_a_pack_as_one_does(
    bottle: Bottle, context: Context, large: str, stage: str
) -> None:
    under = Under(bottle, stage, context, large)
    for _ in range(3):
        under.process.send_signal(signal.SIGINT)
    done = under.ended()
    assert done.code == 130
    assert "Traceback" not in done.err
    assert not bottle.leftovers


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_killed_pack_left_is_removed_by_the_next_command(
    bottle: Bottle, context: Context, large: str, stage: str, tmp_path: Path
) -> None:
    under = Under(bottle, stage, context, large)
    under.process.kill()
    assert under.ended().code == -signal.SIGKILL
    assert bottle("cache", "prune").code == 0
    assert not bottle.leftovers


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_step_that_podman_runs_ends_with_the_pack(
    podman_bottle: Bottle, podman: Podman, tmp_path: Path, signum: signal.Signals
) -> None:
    step = f"sleep 300 # {podman_bottle.mark}"
    dockerfile = f"FROM scratch\nCOPY rootfs /\nENV PATH=/bin:/usr/bin\nRUN echo begun; {step}\n"
    process = podman_bottle.start("pack", busybox_context(tmp_path / "context", dockerfile))
    wait_until(lambda: running(step))
    process.send_signal(signum)
    assert end(process).code == (-signum if signum == signal.SIGKILL else 128 + signum)
    assert podman_bottle("cache", "prune").code == 0
    assert not running(step)
    assert not podman_bottle.leftovers
    if signum != signal.SIGKILL:  # after which nobody hears podman, and it may end before it has tidied up
        assert podman.podman("ps", "--all", "--external", "--quiet") == b""


def running(words: str) -> list[str]:
    """The processes with these words in the command line, by pid."""
    return [
        process.name
        for process in Path("/proc").glob("[0-9]*")
        if words.encode() in readable(process / "cmdline")
    ]


def readable(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_reader_that_goes_away_ends_cache_ls_quietly(bottle: Bottle, saved: Path) -> None:
    """As `bottle cache ls | head -0` does."""
    bottle("pack", "--archive", saved)
    process = bottle.start("cache", "ls")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr is not None
    with process.stderr as stream:
        assert stream.read() == ""

"""What a person sees of a stage: live on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import io
import os

from bot_bottle.host.progress import Progress


def test_a_live_stage_shows_its_detail_as_it_is_written() -> None:
    master, terminal = os.openpty()
    with (
        os.fdopen(terminal, "w", encoding="utf-8") as stream,
        Progress("live", stream).stage("build") as stage,
    ):
        stage.say("step [bold] 1")
        stage.conclude("done")
    shown = b""
    with contextlib.suppress(OSError):  # EIO: all is read, and nobody has the terminal open any more
        while part := os.read(master, 1 << 16):
            shown += part
    os.close(master)
    assert b"build" in shown
    assert b"step [bold] 1" in shown
    assert b"done" in shown


def test_a_plain_stage_is_one_line_when_it_ends() -> None:
    stream = io.StringIO()
    with Progress("plain", stream).stage("pack", 1000) as stage:
        stage.advance(1000)
        stage.conclude("cache hit")
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("pack     1.0 kB, ")
    assert line.endswith("  cache hit")


def test_a_quiet_stage_shows_nothing_and_is_measured() -> None:
    stream = io.StringIO()
    progress = Progress("quiet", stream)
    with progress.stage("pack"):
        pass
    assert stream.getvalue() == ""
    assert list(progress.seconds) == ["pack"]

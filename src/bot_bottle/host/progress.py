"""What a person sees while bot-bottle works: stages, with bytes, rate and seconds.

On a terminal a stage is a live line; elsewhere plain lines, one when it ends and one every few seconds while
it lasts. Quiet shows nothing and still measures.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from rich import progress as rich_progress
    from rich.text import Text

Mode = Literal["live", "plain", "quiet"]

_TICK = 5.0  # seconds between two plain lines of one stage


def human_bytes(count: float) -> str:
    """Return a number of bytes as docker writes it: 1000 bytes are 1 kB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_count(count: int, noun: str) -> str:
    """Return a number of things: `1 artifact`, `2 artifacts`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Stage:
    """A running stage. Workers call `advance` and `say`, which cost next to nothing."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self.total = total
        self.done = 0
        self.detail = ""
        self.result = ""
        self.started = time.monotonic()

    def advance(self, count: int) -> None:
        """Count `count` more bytes as done."""
        self.done += count
        self.tick()

    def say(self, detail: str) -> None:
        """Show what is being worked on now."""
        self.detail = detail
        self.tick()

    def conclude(self, result: str) -> None:
        """Set a few words on how the stage ended: `cache hit`, a file's name."""
        self.result = result

    def tick(self) -> None:
        """Show the current state of the stage, if it is time to."""

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.started

    def measure(self) -> str:
        """Return bytes, rate and seconds in a few words."""
        if not self.done:
            return f"{self.seconds:.1f} s"
        rate = human_bytes(self.done / max(self.seconds, 0.001))
        return f"{human_bytes(self.done)}, {rate}/s, {self.seconds:.1f} s"


class _PlainStage(Stage):
    def __init__(self, name: str, total: int | None, stream: TextIO) -> None:
        super().__init__(name, total)
        self._stream = stream
        self._next = self.started + _TICK

    def tick(self) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _TICK
            _print(f"{self.name:<8} ... {self.measure()}  {self.detail[:80]}".rstrip(), self._stream)


class _LiveStage(Stage):
    """A stage whose bar follows its bytes."""

    bar: rich_progress.Progress | None = None

    def tick(self) -> None:
        if self.bar is not None and self.total:
            self.bar.update(self.bar.task_ids[0], completed=self.done)

    def __rich__(self) -> Text:
        """Return bytes, rate, seconds and detail; called at each refresh, as seconds pass by themselves."""
        from rich.text import Text

        text = Text(f"{self.measure()}  ", no_wrap=True, overflow="ellipsis")
        return text.append(self.detail[:60], style="dim")


def _print(text: str, stream: TextIO) -> None:
    """Print a line. What is worked on does not fail with a stream that takes nothing, as on a full disk.

    Raises BrokenPipeError: who read it is gone.
    """
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


@contextmanager
def _live_stage(name: str, total: int | None, stream: TextIO) -> Iterator[Stage]:
    """Show a spinner, a bar when the total is known, and the latest detail, until the block ends."""
    from rich import progress as rich_progress  # only here: scripts and pipes never load it
    from rich.console import Console

    stage = _LiveStage(name, total)
    columns = [rich_progress.SpinnerColumn(), rich_progress.TextColumn("{task.description:<8}")]
    if total:
        columns.append(rich_progress.BarColumn(bar_width=24))
    columns.append(rich_progress.RenderableColumn(stage))
    with rich_progress.Progress(*columns, console=Console(file=stream), transient=True) as bar:
        bar.add_task(name, total=total)
        stage.bar = bar
        yield stage


class Progress:
    """Shows stages on `stream` (default: standard error) and records how long each took."""

    def __init__(self, mode: Mode = "quiet", stream: TextIO | None = None) -> None:
        self.mode = mode
        self.stream = stream if stream is not None else sys.stderr
        self.seconds: dict[str, float] = {}

    def note(self, text: str) -> None:
        """Print one line that is of no stage (not when quiet)."""
        if self.mode != "quiet":
            _print(text, self.stream)

    def warn(self, text: str) -> None:
        """Print one line that the user has to know, quiet or not."""
        _print(f"warning: {text}", self.stream)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Show a stage until the block ends, and record its seconds under `name`."""
        if self.mode == "live":
            with _live_stage(name, total, self.stream) as stage:
                yield stage
        else:
            stage = _PlainStage(name, total, self.stream) if self.mode == "plain" else Stage(name, total)
            yield stage
        self._add(name, stage.seconds)
        result = f"  {stage.result}" if stage.result else ""
        self.note(f"{name:<8} {stage.measure()}{result}")

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record the block's seconds under `name`, besides earlier ones, however it ends; show nothing."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._add(name, time.monotonic() - begun)

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)

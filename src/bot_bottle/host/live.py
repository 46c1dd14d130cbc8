"""The live line of a stage on a terminal. Apart from progress.py so that scripts never load rich."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from bot_bottle.host.progress import Stage


class _Measure(ProgressColumn):
    """Bytes, rate and seconds, asked for at each refresh: seconds pass while nothing else happens."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def render(self, task: Task) -> Text:  # noqa: ARG002 - what rich asks with
        return Text(f"{self._stage.measure()}  ").append(self._stage.detail[:60], style="dim")


class _LiveStage(Stage):
    """A stage whose bar follows its bytes."""

    bar: RichProgress | None = None

    def tick(self) -> None:
        if self.bar is not None and self.total:
            self.bar.update(self.bar.task_ids[0], completed=self.done)


@contextmanager
def live_stage(name: str, total: int | None, stream: TextIO) -> Iterator[Stage]:
    """Show a spinner, a bar when the total is known, and the latest detail, until the block ends."""
    stage = _LiveStage(name, total)
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description:<8}")]
    if total:
        columns.append(BarColumn(bar_width=24))
    with RichProgress(*columns, _Measure(stage), console=Console(file=stream), transient=True) as bar:
        bar.add_task(name, total=total)
        stage.bar = bar
        yield stage

"""The live line of a stage on a terminal. Apart from progress.py so that scripts never load rich."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as RichProgress

from bot_bottle.progress import Stage


class _LiveStage(Stage):
    def __init__(self, name: str, total: int | None, bar: RichProgress) -> None:
        super().__init__(name, total)
        self._bar = bar
        self._task = bar.add_task(name, total=total, measure="", detail="")

    def tick(self) -> None:
        detail = escape(self.detail[:60])
        self._bar.update(self._task, completed=self.done, measure=self.measure(), detail=detail)


@contextmanager
def live_stage(name: str, total: int | None, stream: TextIO) -> Iterator[Stage]:
    """Show a spinner, a bar when the total is known, and the latest detail, until the block ends."""
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description:<8}"),
        TextColumn("{task.fields[measure]}"),
        TextColumn("[dim]{task.fields[detail]}"),
    ]
    if total:
        columns.insert(2, BarColumn(bar_width=24))
    with RichProgress(*columns, console=Console(file=stream), transient=True) as bar:
        yield _LiveStage(name, total, bar)

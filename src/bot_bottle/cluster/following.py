"""A fan followed by its caller: output as it comes, and each bottle's work as soon as it has ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.agent.state import LIMIT, State
from bot_bottle.bottle import logs, records
from bot_bottle.bottle.replicas import Result
from bot_bottle.cluster.order import FileName
from bot_bottle.cluster.pieces import receive
from bot_bottle.cluster.session import Session
from bot_bottle.cluster.state import News, Report, Returned
from bot_bottle.errors import BottleError, Interrupted, WorkspaceError
from bot_bottle.host.progress import Progress, human_bytes
from bot_bottle.host.signals import capture_signals
from bot_bottle.host.text import printable
from bot_bottle.workspace.bundle import Origin, receive_work
from bot_bottle.workspace.cloned import report_work
from bot_bottle.workspace.open import clone_folder

_LONGEST = 4096  # bytes of a line that are shown


class Target(Struct, frozen=True):
    """Where what bottles return goes; without `state` that of their agents stays on the cluster."""

    origin: Origin
    scratch: Path
    state: State | None = None


def follow(
    session: Session,
    actor: Any,
    names: Sequence[str],
    target: Target,
    progress: Progress,
    on_end: Callable[[Result], None],
    supply: Callable[[FileName], None],
) -> list[Result]:
    """Follow a fan until all of its bottles have ended; return their results, and remove it.

    A signal stops all of them. A second one leaves them to the cluster. Raises Interrupted after either, and
    ClusterError.
    """
    results: dict[str, Result] = {}
    version, output, handled = 0, Output(progress), 0
    with capture_signals() as received, output:
        while len(results) < len(names):
            version, news, wanted = session.get(actor.poll.remote(version, output.positions))
            for each in news:
                output.add(each)
                if each.report is not None and each.name not in results and output.is_whole(each):
                    results[each.name] = _ended(session, actor, each, each.report, target, progress)
                    on_end(results[each.name])
            for name in wanted:
                supply(name)
            if len(received) > 1:
                raise Interrupted(received[1])
            if len(received) > handled:
                progress.note(f"{'stop':<8} all bottles; a second signal leaves that to the cluster")
                session.get(actor.stop.remote(names))
                handled = len(received)
        session.get(actor.finish.remote(), 300.0)
        session.ray.kill(actor)
    if received:
        raise Interrupted(received[0])
    return [results[name] for name in names]


class Output:
    """The output of bottles, shown by lines with the name before each; with `store` put into their logs."""

    def __init__(self, progress: Progress, *, store: bool = True) -> None:
        self._progress = progress
        self._store = store
        self._open = ExitStack()
        self._files: dict[str, int] = {}
        self._rest: dict[str, bytes] = {}
        self.positions: dict[str, int] = {}

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        for name, rest in self._rest.items():
            self._show(name, rest + b"\n" if rest else b"")
        self._open.close()

    def add(self, news: News) -> None:
        """Take a part of a bottle's output."""
        name, position = news.name, self.positions.get(news.name, 0)
        if news.log_start > position:
            self._progress.note(f"{name}: {human_bytes(news.log_start - position)} of output were dropped")
        if news.log:
            if self._store:
                os.write(self._file(name), news.log)
            self._show(name, self._rest.get(name, b"") + news.log)
        self.positions[name] = news.log_start + len(news.log)

    def is_whole(self, news: News) -> bool:
        """Return whether all output of a bottle that has ended is here."""
        return self.positions[news.name] >= news.log_end

    def _show(self, name: str, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        self._rest[name] = rest[:_LONGEST]
        for line in lines:
            text = line[:_LONGEST].decode("utf-8", "replace").rstrip("\r")
            self._progress.note(f"{name} | {printable(text)}")

    def _file(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = logs.begin(name)
            self._open.callback(os.close, self._files[name])
        return self._files[name]


def _ended(
    session: Session,
    actor: Any,
    news: News,
    report: Report,
    target: Target,
    progress: Progress,
) -> Result:
    """Bring the work of a bottle that has ended into the user's repository, and record its run."""
    facts: dict[str, Any] = {"repository": target.origin.repository, "base": target.origin.base}
    fetch = partial(_fetch, session, actor, news.name, target.scratch)
    lost = report.lost or _take_work(fetch, news.name, report, target.origin, facts)
    status = report.exit_status or (WorkspaceError.exit_code if lost else 0)
    record = records.received(news.name, news.node, report.record, status, report.error or lost)
    record.progress = progress
    if report.error and report.refused:
        progress.warn(f"{news.name} was refused by every node: {report.error}")
    elif report.error and report.record is None:
        progress.warn(f"{news.name}: {report.error}")
    if lost:
        progress.warn(f"the work of {news.name} was not taken: {lost}")
    if target.state and report.has_state:
        try:
            _take_state(fetch, target.state)
        except (BottleError, OSError) as error:
            progress.warn(f"the state of {target.state.agent} in {news.name} is not kept: {error}")
    record.git = facts
    record.save()
    return Result(news.name, status, record, news.nodes)


Fetch = Callable[[Returned, int], AbstractContextManager[Path]]


@contextmanager
def _fetch(
    session: Session, actor: Any, name: str, scratch: Path, what: Returned, most: int
) -> Iterator[Path]:
    """Yield a file with what a bottle has returned, which has `most` bytes at most. Raises ClusterError."""
    path = scratch / f"{name}.{what}"
    try:
        receive(lambda offset: session.get(actor.returned.remote(name, what, offset)), path, most=most)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _take_work(fetch: Fetch, name: str, report: Report, origin: Origin, facts: dict[str, Any]) -> str:
    """Bring a bottle's work into the user's repository and add to `facts` about it; return why not."""
    if not report.tips:
        return ""
    try:
        with fetch("work", origin.most) if report.has_bundle else nullcontext() as bundle:
            clone = receive_work(clone_folder(name), origin, name, report.tips, bundle)
        with suppress(BottleError):
            report_work(clone, facts)
    except BottleError as error:
        return str(error)
    return ""


def _take_state(fetch: Fetch, state: State) -> None:
    """Keep what a bottle has returned of its agent's state. Raises AgentError, ClusterError, OSError."""
    with fetch("state", LIMIT) as path, path.open("rb") as returned:
        state.keep(returned)

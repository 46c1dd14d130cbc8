"""Replicas: several bottles with the same command, each on a branch of its own, of one artifact."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec import Struct

from bot_bottle.backend.choice import backend_for
from bot_bottle.bottle import detach, names, records
from bot_bottle.bottle.detach import DetachedProcess
from bot_bottle.bottle.gc import run_context
from bot_bottle.bottle.records import RunRecord
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.errors import ReceiptError, SpecError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress, human_bytes, human_count
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.sizes import available_memory
from bot_bottle.login.values import resolve
from bot_bottle.pack.converter import Converter
from bot_bottle.pack.options import ConvertOptions
from bot_bottle.workspace.repository import open_repository

MOST = 64

_POLL = 0.1  # seconds
_SPARE = 1 << 30  # bytes of the disk that stay free


class Result(Struct, frozen=True):
    """The result of one bottle. `record` is its run's, empty if it did not get that far.

    `nodes` are the machines of a cluster that it was started on, in order.
    """

    name: str
    exit_status: int
    record: RunRecord
    nodes: tuple[str, ...] = ()


def fan(
    spec: BottleSpec,
    count: int,
    arguments: Sequence[str],
    progress: Progress,
    on_end: Callable[[Result], None],
    options: ConvertOptions,
) -> list[Result]:
    """Run `count` bottles of a spec, whose name is the prefix of theirs, and wait for all of them.

    The image is built and its artifact made once. `arguments` are the command line of their processes. Raises
    SpecError if memory or disk space do not suffice.
    """
    all_names = [f"{spec.slug}-{number}" for number in range(1, count + 1)]
    for name in all_names:
        with names.lock_name(name):
            pass
    backend = backend_for(spec.backend, spec.accel)
    _check_room(spec, count, backend.host_overhead_mib(spec.accel))
    # resolved again by each bottle; a missing one is reported before anything is built
    resolve(spec.secrets, progress.warn)
    with run_context() as run:
        converter = Converter(run, progress, options)
        image = "" if spec.source.archive else converter.image_id(spec.source)
        if backend.boots_artifact:
            converter.convert(spec.source)
    started = []
    try:
        for name in all_names:
            with defer_signals():
                started.append(detach.start(name, arguments, image))
            progress.note(f"{'start':<8} {name}")
        return _waited(started, on_end)
    except BaseException:
        detach.end_all(started)
        raise


def _waited(started: Sequence[DetachedProcess], on_end: Callable[[Result], None]) -> list[Result]:
    results: dict[str, Result] = {}
    while len(results) < len(started):
        for each in started:
            code = each.process.poll()
            if code is not None and each.name not in results:
                status = code if code >= 0 else 128 - code  # killed: the next command removes its leftovers
                results[each.name] = Result(each.name, status, _record(each))
                on_end(results[each.name])
        time.sleep(_POLL)
    return [results[each.name] for each in started]


def _record(started: DetachedProcess) -> RunRecord:
    """Return the record of this run; an empty one if it did not get that far."""
    with suppress(ReceiptError):
        record = records.newest(started.name)
        if record.pid == started.process.pid:
            return record
    return RunRecord(started.name)


def _check_room(spec: BottleSpec, count: int, beside: int) -> None:
    """Refuse more than this machine's memory and disk can hold. Each needs `beside` MiB more than its own."""
    if not 1 <= count <= MOST:
        raise SpecError(f"N must be 1 to {MOST}, not {count}")
    needed, there = count * (spec.memory_mib + beside) << 20, available_memory()
    if there is not None and needed > there:
        raise SpecError(
            f"not enough memory for {human_count(count, 'bottle')} of {spec.memory_mib} MiB: "
            f"{human_bytes(there)} free",
            why=f"each is on an emulated host, which needs {beside} MiB more" if beside else "",
            next_step="use a smaller --memory, or run fewer",
        )
    place = paths.state_dir()
    while not place.exists():
        place = place.parent
    clones = count * open_repository(spec.workspace.project).clone_size()
    if (free := shutil.disk_usage(place).free) < clones + _SPARE:
        raise SpecError(
            f"not enough space in {place} for {human_count(count, 'clone')} of {spec.workspace.top}",
            why=f"{human_bytes(clones + _SPARE)} are needed, {human_bytes(free)} are free",
            next_step="free some space, or set BOT_BOTTLE_STATE_DIR to another folder",
        )

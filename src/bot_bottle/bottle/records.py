"""A record of every run: its image and settings, its isolation, its results, and the seconds of each stage.

One JSON file for each run, in the user's state folder, private to the user; written when the run begins, when
its command starts, and when it ends, so that a killed run is also recorded. Values of variables are never in
it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bot_bottle.backend.base import PLACES, Machine
from bot_bottle.errors import BottleError, Interrupted, ReceiptError, SpecError, TimeLimitError
from bot_bottle.host import paths, process_tree
from bot_bottle.host.files import write_private
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.host.redact import redacted
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.system_errors import next_step
from bot_bottle.network import audit_log
from bot_bottle.network.usage import load_usage
from bot_bottle.version import VERSION

KEEP = 200  # receipts

_NAME_TIME = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-(.+)\.json")
_LARGEST = 1 << 20  # bytes of one that is read


@dataclass(slots=True)
class RunRecord:
    """A run that continues, or was read from its file. Empty fields are not known, or not yet.

    `pid` and `started` identify the process of the bottle; `place` and `engine` say where its command runs;
    `plan`, `proof`, `git`, `egress` and `usage` are documents as `bottle show` prints them. `limit` is the
    one of its limits that the run has reached: `timeout`, `requests` or `tokens`. `node` is the address of
    the machine that ran it, if that was one of a cluster. Times are in RFC 3339 form.
    """

    name: str
    pid: int = 0
    started: str = ""
    began: str = ""
    ended: str | None = None
    exit_status: int | None = None
    error: str | None = None
    image_id: str | None = None
    place: str | None = None
    engine: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] | None = None
    proof: dict[str, Any] | None = None
    git: dict[str, Any] | None = None
    egress: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    limit: str | None = None
    node: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    path: Path = Path()
    progress: Progress = field(default_factory=Progress, repr=False, compare=False)

    @property
    def log(self) -> Path:
        """The path of the log of connections, if the run has one."""
        return refusals_of(self.path)

    @property
    def policy(self) -> Path:
        """The path of the run's policy, if that can be changed."""
        return policy_of(self.path)

    @property
    def ask(self) -> Path:
        """The path of the socket on which the run's proxy asks about refused connections, if it does."""
        return ask_of(self.path)

    @property
    def usage_file(self) -> Path:
        """The path of the file in which the run's proxy counts what it uses with its credentials."""
        return usage_of(self.path)

    def take_usage(self) -> None:
        """Take over what was used so far, if a proxy counts it."""
        if (found := load_usage(self.usage_file)) is not None:
            self.usage = found
            self.limit = self.limit or found["refused"] or None

    def machine(self) -> Machine:
        """Return how other commands find a running bottle. Raises SpecError before its command starts."""
        plan = self.plan or {}
        if self.place not in PLACES:
            raise SpecError(f"the bottle {self.name} is still starting", next_step="try again in a moment")
        return Machine(
            slug=self.name,
            place=self.place,
            engine=self.engine or "",
            user=str(plan.get("user") or ""),
            workdir=str(plan.get("workdir") or ""),
            published=bool(plan.get("ports")),
        )

    def traffic(self) -> dict[str, Any] | None:
        """Return the summary of what the run reached and was refused so far; None without a network."""
        with suppress(OSError):
            if self.log.exists():
                from bot_bottle.network.traffic import summarize

                return summarize(audit_log.read(self.log))
        return None

    def save(self) -> None:
        """Write the record. A failure only prints a warning: the run matters more."""
        _write(self)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _OWN}

    @classmethod
    def from_json(cls, document: dict[str, Any], path: Path) -> RunRecord:
        """Parse the output of `to_json` from an untrusted file, also of earlier versions.

        Raises ValueError for anything else.
        """
        facts: dict[str, Any] = {}
        for name, kinds in _KINDS.items():
            value = document.get(name)
            if value is not None:
                if not isinstance(value, kinds) or isinstance(value, bool):
                    raise ValueError(f"{name} is a {type(value).__name__}")
                facts[name] = value
        if "engine" not in facts and (shown := str(facts.get("versions", {}).get("engine", ""))):
            facts["engine"] = shown.partition(" ")[0]  # older records do not have the field
        return cls(**{"name": "", **facts}, path=path)


_OWN = ("path", "progress")
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("name", "started", "began", "ended", "error", "image_id", "place", "engine", "limit", "node"), str
    ),
    **dict.fromkeys(("pid", "exit_status"), int),
    **dict.fromkeys(("versions", "plan", "proof", "git", "egress", "usage", "seconds"), dict),
}


@contextmanager
def recorded(name: str, progress: Progress) -> Iterator[RunRecord]:
    """Yield the record of a bottle's run, to be filled in; it is written when the block ends."""
    begun, started = datetime.now(UTC), time.monotonic()
    record = RunRecord(
        name,
        pid=os.getpid(),
        started=process_tree.start_time(os.getpid()),
        began=_stamp(begun),
        versions={"bottle": VERSION, "kernel": os.uname().release},
        path=paths.receipts_dir() / f"{_after_the_last(begun):{_NAME_TIME}}-{name}.json",
        progress=progress,
    )
    record.save()
    try:
        yield record
    except BottleError as error:
        signum = error.signum if isinstance(error, Interrupted) else 0
        record.error = redacted(error.message)
        record.exit_status = 128 + signum if signum else error.exit_code
        record.limit = "timeout" if isinstance(error, TimeLimitError) else None
        raise
    finally:
        record.ended = _stamp(datetime.now(UTC))
        record.seconds = {**progress.seconds, "total": round(time.monotonic() - started, 3)}
        with defer_signals():
            _end(record)


def _end(record: RunRecord) -> None:
    """Take over what a run has reached and used, and write its record."""
    record.egress = record.traffic()
    record.take_usage()
    record.save()
    with suppress(OSError):
        record.usage_file.unlink()


def received(name: str, node: str, document: dict[str, Any] | None, status: int, error: str) -> RunRecord:
    """Return the record of a bottle that has ended on a node of a cluster, to be filled in and saved.

    `document` is what its run has recorded there, which is untrusted, or None.
    """
    now = datetime.now(UTC)
    path = paths.receipts_dir() / f"{_after_the_last(now):{_NAME_TIME}}-{name}.json"
    try:
        record = RunRecord.from_json(document or {}, path)
    except ValueError:
        record = RunRecord(name, path=path)
    record.name, record.node, record.exit_status = name, node or None, status
    record.pid, record.started, record.error = 0, "", record.error or error or None
    record.began, record.ended = record.began or _stamp(now), record.ended or _stamp(now)
    return record


def settle(name: str, progress: Progress) -> None:
    """Record the end of a bottle's last run, if it was killed before it could. It must not run any more."""
    record = newest(name)
    for path in (record.policy, record.ask, record.ask.with_name(f"{record.ask.name}.lock")):
        with suppress(OSError):
            path.unlink()
    if not record.ended:
        record.ended, record.error, record.progress = _stamp(datetime.now(UTC)), "it was killed", progress
        _end(record)


def newest(name: str | None = None) -> RunRecord:
    """Return the record of the last run, or of a bottle's last run. Raises ReceiptError."""
    return _read(newest_path(name))


def refusals_of(path: Path) -> Path:
    """Return the path of the log of connections for a record's path."""
    return path.with_suffix(".egress")


def policy_of(path: Path) -> Path:
    """Return the path of the policy for a record's path."""
    return path.with_suffix(".policy")


def usage_of(path: Path) -> Path:
    """Return the path of the counts of what a run uses for a record's path."""
    return path.with_suffix(".usage")


def ask_of(path: Path) -> Path:
    """Return the path of the socket for questions for a record's path: short, as a bottle's name is long."""
    return path.with_name(f"{path.name.partition('-')[0]}.ask")


def newest_path(name: str | None) -> Path:
    """Return the path of the last run's record, or of a bottle's last run. Raises ReceiptError."""
    for path in reversed(_paths()):
        if name in (None, _bottle(path)):
            return path
    raise ReceiptError(
        f"no bottle named {name}" if name else "there are no records yet",
        next_step=f"see bottle ls --all (the last {KEEP} runs are listed)",
    )


def names() -> set[str]:
    """Return the names of all bottles with records. Raises ReceiptError."""
    return {_bottle(path) for path in _paths()}


def newest_of_each() -> Iterator[RunRecord]:
    """Yield the record of every bottle's last run, the newest first. Damaged ones are left out."""
    seen: set[str] = set()
    for path in reversed(_paths()):
        name = _bottle(path)
        if name not in seen:
            seen.add(name)
            with suppress(ReceiptError):
                yield _read(path)


def _after_the_last(now: datetime) -> datetime:
    """Return the time for a new receipt's name: after all others, also when the clock was set back."""
    with suppress(IndexError, ValueError, OverflowError, ReceiptError):
        text = _paths()[-1].name.partition("-")[0]
        last = datetime.strptime(text, _NAME_TIME).replace(tzinfo=UTC)
        return max(now, last + timedelta(microseconds=1))
    return now


def _paths() -> list[Path]:
    """Return the paths of the records, the oldest first."""
    try:
        return sorted(path for path in paths.receipts_dir().iterdir() if _bottle(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ReceiptError(
            f"cannot read {paths.receipts_dir()}",
            why=error.strerror or str(error),
            next_step=next_step(error, "make it yours, or name another folder with BOT_BOTTLE_STATE_DIR"),
        ) from error


def _bottle(path: Path) -> str:
    """Return the name of the bottle of a record's path; "" for another file."""
    found = _NAME.fullmatch(path.name)
    return found[1] if found else ""


def _read(path: Path) -> RunRecord:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LARGEST))
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
        return RunRecord.from_json(document, path)
    except (OSError, ValueError, RecursionError) as error:
        raise ReceiptError(f"{path} is damaged", why=str(error), next_step="remove it") from error


def _write(record: RunRecord) -> None:
    folder = record.path.parent
    try:
        with defer_signals():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(record.path, json.dumps(record.to_json(), indent=2) + "\n")
            with exclusive_lock(folder / "lock", lambda: None):
                for old in _paths()[:-KEEP]:
                    for each in (refusals_of(old), policy_of(old), usage_of(old), ask_of(old), old):
                        each.unlink(missing_ok=True)
    except (OSError, ReceiptError) as error:
        record.progress.warn(f"the receipt of this run could not be written: {error}")


def _stamp(when: datetime) -> str:
    """Return a time in RFC 3339 form, to the second."""
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"

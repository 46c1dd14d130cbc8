"""A receipt for every run: what it was made of, what was in force, what it did, and how long each part took.

One JSON file a run, in the user's state folder, for the user alone; written when the run begins, when
its command does, and when it ends, so that one which was killed is known too. Values of variables are never
in it.
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
from bot_bottle.errors import BottleError, Interrupted, ReceiptError, SpecError
from bot_bottle.host import paths, process_tree
from bot_bottle.host.files import write_private
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.host.redact import redacted
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.system_errors import next_step
from bot_bottle.version import VERSION

KEEP = 200  # receipts

_NAME_TIME = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-(.+)\.json")
_LARGEST = 1 << 20  # bytes of one that is read


@dataclass(slots=True)
class RunRecord:
    """What is known of a run: one that lasts, or one that was read. Empty fields are not known, or not yet.

    `pid` and `started` identify the process that holds the bottle; `place` and `engine` say where its command
    runs; `plan`, `proof` and `git` are documents as `bottle show` prints them. Times are after RFC 3339.
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
    seconds: dict[str, float] = field(default_factory=dict)
    path: Path = Path()
    progress: Progress = field(default_factory=Progress, repr=False, compare=False)

    @property
    def log(self) -> Path:
        """Where the log of refused connections is, if the run has one."""
        return refusals_of(self.path)

    @property
    def policy(self) -> Path:
        """Where the policy is that the run is held to, if that can be changed."""
        return policy_of(self.path)

    def machine(self) -> Machine:
        """Return where other commands find the bottle while it runs. Raises SpecError before it has begun."""
        plan = self.plan or {}
        if self.place not in PLACES:
            raise SpecError(f"the bottle {self.name} has not begun yet", next_step="try again when it has")
        return Machine(
            slug=self.name,
            place=self.place,
            engine=self.engine or "",
            user=str(plan.get("user") or ""),
            workdir=str(plan.get("workdir") or ""),
            published=bool(plan.get("ports")),
        )

    def save(self) -> None:
        """Write down what is known by now. A warning says if that cannot be done: the run matters more."""
        _write(self)

    def to_json(self) -> dict[str, Any]:
        """Return it as the JSON object that is kept."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _OWN}

    @classmethod
    def from_json(cls, document: dict[str, Any], path: Path) -> RunRecord:
        """Read what `to_json` gave, from an untrusted file, or what earlier versions wrote.

        Raises ValueError where it is something else.
        """
        facts: dict[str, Any] = {}
        for name, kinds in _KINDS.items():
            value = document.get(name)
            if value is not None:
                if not isinstance(value, kinds) or isinstance(value, bool):
                    raise ValueError(f"{name} is a {type(value).__name__}")
                facts[name] = value
        if "engine" not in facts and (shown := str(facts.get("versions", {}).get("engine", ""))):
            facts["engine"] = shown.partition(" ")[0]  # before it had a field of its own
        return cls(**{"name": "", **facts}, path=path)


_OWN = ("path", "progress")
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "started", "began", "ended", "error", "image_id", "place", "engine"), str),
    **dict.fromkeys(("pid", "exit_status"), int),
    **dict.fromkeys(("versions", "plan", "proof", "git", "seconds"), dict),
}


@contextmanager
def recorded(name: str, progress: Progress) -> Iterator[RunRecord]:
    """Yield the record of a bottle's run, to be filled in; it is on the disk when the block has ended."""
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
        raise
    finally:
        record.ended = _stamp(datetime.now(UTC))
        record.seconds = {**progress.seconds, "total": round(time.monotonic() - started, 3)}
        record.save()


def settle(name: str, progress: Progress) -> None:
    """Write down that a bottle's last run has ended, if it was killed before it could. It lives no more."""
    record = newest(name)
    with suppress(OSError):
        record.policy.unlink()
    if not record.ended:
        record.ended, record.error, record.progress = _stamp(datetime.now(UTC)), "it was killed", progress
        record.save()


def newest(name: str | None = None) -> RunRecord:
    """Return the record of the last run, or of a bottle's last run. Raises ReceiptError."""
    return _read(newest_path(name))


def refusals_of(path: Path) -> Path:
    """Return where the egress log of a receipt's run is, if it has one."""
    return path.with_suffix(".egress")


def policy_of(path: Path) -> Path:
    """Return where the policy is that a receipt's run is held to, if that can be changed."""
    return path.with_suffix(".policy")


def newest_path(name: str | None) -> Path:
    """Return where the receipt of the last run is, or of a bottle's last run. Raises ReceiptError."""
    for path in reversed(_paths()):
        if name in (None, _bottle(path)):
            return path
    raise ReceiptError(
        f"no run of a bottle named {name} is known" if name else "no run is known yet",
        next_step=f"the last {KEEP} runs are kept; bottle show has the very last",
    )


def names() -> set[str]:
    """Return the names of all bottles of which receipts are kept. Raises ReceiptError."""
    return {_bottle(path) for path in _paths()}


def newest_of_each() -> Iterator[RunRecord]:
    """Yield the record of every bottle's last run, the last begun first. Damaged ones are left out."""
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
    """List the receipts, the oldest first."""
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
    """Return the name of the bottle whose receipt it is; nothing when it is none."""
    found = _NAME.fullmatch(path.name)
    return found[1] if found else ""


def _read(path: Path) -> RunRecord:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LARGEST))
        if not isinstance(document, dict):
            raise ValueError("it is not a JSON object")
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
                    for each in (refusals_of(old), policy_of(old), old):
                        each.unlink(missing_ok=True)
    except (OSError, ReceiptError) as error:
        record.progress.warn(f"no receipt of this run is kept: {error}")


def _stamp(when: datetime) -> str:
    """Return a time after RFC 3339, to the second."""
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"

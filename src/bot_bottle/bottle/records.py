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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bot_bottle.errors import BottleError, Interrupted, ReceiptError
from bot_bottle.host import paths, process_tree
from bot_bottle.host.files import write_private
from bot_bottle.host.locks import locked
from bot_bottle.host.progress import Progress
from bot_bottle.host.redact import redacted
from bot_bottle.host.signals import shield
from bot_bottle.version import VERSION

KEEP = 200  # receipts

_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-(.+)\.json")
_LARGEST = 1 << 20  # bytes of one that is read


class Receipt(dict[str, Any]):
    """The document of a run that lasts."""

    def __init__(self, path: Path, progress: Progress, **facts: Any) -> None:
        super().__init__(facts)
        self._path = path
        self._progress = progress

    @property
    def path(self) -> Path:
        """Where it is; beside it are the egress log (`refusals`) and the live policy of a run."""
        return self._path

    def save(self) -> None:
        """Write down what is known by now."""
        _write(self._path, self, self._progress)


@contextmanager
def recorded(name: str, progress: Progress) -> Iterator[Receipt]:
    """Give the document of a bottle's run, to be filled in; it is on the disk when the block has ended.

    A receipt that cannot be written is a warning: the run matters more.
    """
    begun, started = datetime.now(UTC), time.monotonic()
    path = paths.receipts_dir() / f"{begun:%Y%m%dT%H%M%S.%fZ}-{name}.json"
    document = Receipt(
        path,
        progress,
        name=name,
        pid=os.getpid(),
        started=process_tree.start_time(os.getpid()),
        began=_stamp(begun),
        ended=None,
        exit_status=None,
        error=None,
        image_id=None,
        place=None,
        versions={"bottle": VERSION, "kernel": os.uname().release},
        plan=None,
        proof=None,
        git=None,
        seconds={},
    )
    document.save()
    try:
        yield document
    except BottleError as error:
        signum = error.signum if isinstance(error, Interrupted) else 0
        document.update(
            error=redacted(error.message), exit_status=128 + signum if signum else error.exit_code
        )
        raise
    finally:
        total = round(time.monotonic() - started, 3)
        document.update(ended=_stamp(datetime.now(UTC)), seconds={**progress.seconds, "total": total})
        document.save()


def settle(name: str, progress: Progress) -> None:
    """Write down that a bottle's last run has ended, if it was killed before it could. It lives no more."""
    path = newest_path(name)
    document = _read(path)
    with suppress(OSError):
        policy_of(path).unlink()
    if not document.get("ended"):
        _write(path, {**document, "ended": _stamp(datetime.now(UTC)), "error": "it was killed"}, progress)


def newest(name: str | None = None) -> dict[str, Any]:
    """Give the receipt of the last run, or of a bottle's last run. Raises ReceiptError."""
    return _read(newest_path(name))


def refusals_of(path: Path) -> Path:
    """Give where the egress log of a receipt's run is, if it has one."""
    return path.with_suffix(".egress")


def policy_of(path: Path) -> Path:
    """Give where the policy is that a receipt's run is held to, if that can be changed."""
    return path.with_suffix(".policy")


def newest_path(name: str | None) -> Path:
    """Give where the receipt of the last run is, or of a bottle's last run. Raises ReceiptError."""
    for path in reversed(_paths()):
        if name in (None, _bottle(path)):
            return path
    raise ReceiptError(
        f"no run of a bottle named {name} is known" if name else "no run is known yet",
        next_step=f"the last {KEEP} runs are kept; bottle show has the very last",
    )


def names() -> set[str]:
    """Give the names of all bottles of which receipts are kept. Raises ReceiptError."""
    return {_bottle(path) for path in _paths()}


def newest_of_each() -> Iterator[dict[str, Any]]:
    """Give the receipt of every bottle's last run, the last begun first. Damaged ones are left out."""
    seen: set[str] = set()
    for path in reversed(_paths()):
        name = _bottle(path)
        if name not in seen:
            seen.add(name)
            with suppress(ReceiptError):
                yield _read(path)


def _paths() -> list[Path]:
    """List the receipts, the oldest first."""
    try:
        return sorted(path for path in paths.receipts_dir().iterdir() if _bottle(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ReceiptError(f"cannot read {paths.receipts_dir()}", why=str(error)) from error


def _bottle(path: Path) -> str:
    """Give the name of the bottle whose receipt it is; nothing when it is none."""
    found = _NAME.fullmatch(path.name)
    return found[1] if found else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LARGEST))
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise ReceiptError(f"{path} is damaged", why=str(error), next_step="remove it") from error
    return document


def _write(path: Path, document: dict[str, Any], progress: Progress) -> None:
    folder = path.parent
    try:
        with shield():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, json.dumps(document, indent=2) + "\n")
            with locked(folder / "lock", lambda: None):
                for old in _paths()[:-KEEP]:
                    for each in (refusals_of(old), policy_of(old), old):
                        each.unlink(missing_ok=True)
    except (OSError, ReceiptError) as error:
        progress.warn(f"no receipt of this run is kept: {error}")


def _stamp(when: datetime) -> str:
    """Give a time after RFC 3339, to the second."""
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"

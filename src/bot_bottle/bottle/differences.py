"""Two runs of one command, compared: rows of a table, each the same, different, or not known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot_bottle.bottle.records import RunRecord
from bot_bottle.host.progress import human_count
from bot_bottle.network.probes import STATUS

_SORTED = 16 << 20  # bytes of output of which the lines are compared one by one
_UNKNOWN = "not known"
_BACKENDS_OWN = {"HOSTNAME", "TERM"}  # variables that docker and smolvm set by themselves: shown, not judged


@dataclass(slots=True)
class Side:
    """What is known of one of the two runs; None is: not known. `seconds` are those of the command alone."""

    backend: str
    name: str
    exit_status: int = -1
    user: str | None = None
    cwd: str | None = None
    env: dict[str, str] | None = field(default=None, repr=False)  # values may be secrets
    files: dict[str, str] | None = None
    log: Path = Path()
    seconds: float = 0.0
    record: RunRecord = field(default_factory=lambda: RunRecord(""))


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was compared, and what each run has. `same` is None where nothing can be said."""

    what: str
    left: str
    right: str
    same: bool | None


def compare(left: Side, right: Side) -> Iterator[Row]:
    """Compare two runs. What has many parts (variables, files, hosts) has a row for each that differs."""
    yield Row("exit status", str(left.exit_status), str(right.exit_status), _same(left, right, "exit_status"))
    yield Row("user", left.user or _UNKNOWN, right.user or _UNKNOWN, _same(left, right, "user"))
    yield Row("cwd", left.cwd or _UNKNOWN, right.cwd or _UNKNOWN, _same(left, right, "cwd"))
    yield from _parts("env", "variable", left.env, right.env, lambda _value: "set", _BACKENDS_OWN)
    yield from _parts("files", "file", left.files, right.files, lambda value: value.partition(" ")[0])
    yield _output(left.log, right.log)
    here, there = (_reached(side.record.proof) for side in (left, right))
    if here or there:
        yield from _parts("hosts", "probe", here, there, str)
    yield Row("seconds", f"{left.seconds:.2f}", f"{right.seconds:.2f}", None)
    yield Row("with start", _total(left), _total(right), None)


def _same(left: Side, right: Side, name: str) -> bool | None:
    mine, other = getattr(left, name), getattr(right, name)
    return None if None in (mine, other) else mine == other


def _parts(
    what: str,
    noun: str,
    left: Mapping[str, str] | None,
    right: Mapping[str, str] | None,
    shown: Callable[[str], str],
    unjudged: AbstractSet[str] = frozenset(),
) -> Iterator[Row]:
    """Compare two tables: how many entries each has, then each that the other has not, or has otherwise.

    `shown` says what may be shown of a value; `unjudged` are entries that may differ.
    """
    counts = [_UNKNOWN if each is None else human_count(len(each), noun) for each in (left, right)]
    if left is None or right is None:
        yield Row(what, counts[0], counts[1], None)
        return
    differ = [key for key in sorted(left.keys() | right.keys()) if left.get(key) != right.get(key)]
    yield Row(what, counts[0], counts[1], unjudged >= set(differ))
    for key in differ:
        words = [shown(each[key]) if key in each else "-" for each in (left, right)]
        other = ", otherwise" if words[0] == words[1] else ""
        yield Row(f"{what} {key}", words[0], f"{words[1]}{other}", None if key in unjudged else False)


def _reached(proof: Any) -> dict[str, str] | None:
    """Give of each probe of a receipt whether it got out. How it was refused may differ."""
    if not isinstance(proof, dict) or not proof:
        return None
    outcomes = {
        str(key): value.get("outcome") if isinstance(value, dict) else value
        for key, value in proof.items()
        if not str(key).startswith(STATUS)
    }
    return {name: str(word) if word in ("open", "error") else "closed" for name, word in outcomes.items()}


def _output(left: Path, right: Path) -> Row:
    """Compare what two commands printed. Their two streams may have met in another order."""
    texts = [path.read_bytes() if path.stat().st_size <= _SORTED else None for path in (left, right)]
    if None in texts:
        same = left.stat().st_size == right.stat().st_size and _equal(left, right)
        return Row("output", f"{left.stat().st_size} bytes", f"{right.stat().st_size} bytes", same)
    first, second = ((text or b"").splitlines() for text in texts)
    order = "" if first == second else ", in another order" if sorted(first) == sorted(second) else None
    words = [human_count(len(lines), "line") for lines in (first, second)]
    return Row("output", words[0], f"{words[1]}{order or ''}", order is not None)


def _equal(left: Path, right: Path) -> bool:
    with left.open("rb") as first, right.open("rb") as second:
        while mine := first.read(1 << 20):
            if mine != second.read(1 << 20):
                return False
    return True


def _total(side: Side) -> str:
    seconds = side.record.seconds.get("total")
    return _UNKNOWN if seconds is None else f"{seconds:.2f}"

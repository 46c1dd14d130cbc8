"""One command on both backends, one after the other, and a comparison of the results.

Before the command runs, the image's own shell reports user, folder and variables. An image without a shell
reports nothing. The output of both commands is stored in their logs. Values of variables are compared and
never shown.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.backend import BackendName
from bot_bottle.backend.base import OnProved, RunningBottle
from bot_bottle.bottle import logs, manage, names, records
from bot_bottle.bottle.gc import run_context
from bot_bottle.bottle.records import RunRecord
from bot_bottle.bottle.run import run_bottle
from bot_bottle.bottle.spec import BottleSpec, check_slug
from bot_bottle.engine.source import Source
from bot_bottle.errors import BottleError, UsageError
from bot_bottle.host import rundir
from bot_bottle.host.progress import Progress, human_count
from bot_bottle.login.values import resolve
from bot_bottle.network.probes import STATUS
from bot_bottle.pack.converter import Converter
from bot_bottle.pack.options import ConvertOptions
from bot_bottle.structs import replace

_ORDER: tuple[BackendName, ...] = ("docker", "smolmachines")  # the faster one first

# only built-ins of a shell, and /proc: an image may have nothing else
_LOOK = """\
while read -r key _ id _; do
  case $key in Uid:) uid=$id ;; Gid:) gid=$id ;; esac
done < /proc/self/status
echo "$uid:$gid"
pwd -P
export -p
"""
_EXPORT = re.compile(r"^(?:export|declare -x) (\w+)(?:=|$)", re.MULTILINE)
_SHELLS_OWN = {"PWD", "OLDPWD", "SHLVL", "_"}
_CHANGES = {"A": "added", "D": "removed", "M": "changed", "T": "another type"}


def twin(spec: BottleSpec, progress: Progress, options: ConvertOptions) -> tuple[Side, Side]:
    """Run a spec's command on both backends and return the results.

    The image is built once; the bottles are named after the spec, with their backend. Raises UsageError for
    what cannot run twice.
    """
    if spec.source.archive is not None:
        raise UsageError("--twin does not work with an archive", next_step="docker load it, and use --image")
    if spec.workspace.mode == "mount":
        raise UsageError("--twin cannot be used with --workspace mount", next_step="use --workspace clone")
    sides = [Side(backend, check_slug(f"{spec.slug}-{backend}")) for backend in _ORDER]
    for side in sides:
        with names.lock_name(side.name):
            pass  # fails before the first has run
    # resolved again by each side; a missing one is reported before anything is built
    resolve(spec.secrets, progress.warn)
    with run_context() as run:
        image = Converter(run, progress, options).image_id(spec.source)
    for backend, side in zip(_ORDER, sides, strict=True):
        own = replace(spec, slug=side.name, backend=backend, source=Source(image=image), state=None)
        _run(own, side, Progress(progress.mode, progress.stream), options)
    return sides[0], sides[1]


def _run(spec: BottleSpec, side: Side, progress: Progress, options: ConvertOptions) -> None:
    def run_command(running: RunningBottle, on_proved: OnProved) -> int:
        _look(running, side)
        log = logs.begin(side.name)
        begun = time.monotonic()
        try:
            with _streams_into(log):
                return running.run(tty=False, on_proved=on_proved)
        finally:
            side.seconds = round(time.monotonic() - begun, 3)
            os.close(log)

    progress.note(f"{'start':<8} {side.name}")
    side.exit_status = run_bottle(spec, options, progress, run_command=run_command)
    side.record, side.log = records.newest(side.name), logs.path(side.name)
    if spec.workspace.mode == "clone":
        side.files = _files(side.name)


def _look(running: RunningBottle, side: Side) -> None:
    """Run the image's shell to report user, folder and variables; without a shell they stay unknown."""
    with rundir.run_dir() as run, tempfile.TemporaryFile(dir=run.path) as report:
        with _streams_into(report.fileno()):
            code = running.run_before(("sh", "-c", _LOOK))
        report.seek(0)
        user, _, rest = report.read().decode("utf-8", "surrogateescape").partition("\n")
    if code == 0 and re.fullmatch(r"\d+:\d+", user):
        side.user = user
        side.cwd, _, exports = rest.partition("\n")
        side.env = exported(exports)


def exported(text: str) -> dict[str, str]:
    """Return the variables in the output of a shell's `export -p`, with their values in its quoting."""
    starts = list(_EXPORT.finditer(text))
    ends = [start.start() for start in starts[1:]] + [len(text)]
    pairs = zip(starts, ends, strict=True)
    return {
        start[1]: text[start.end() : end].rstrip("\n") for start, end in pairs if start[1] not in _SHELLS_OWN
    }


@contextmanager
def _streams_into(target: int) -> Iterator[None]:
    """Redirect a command's output to a file until the block ends, and its input to /dev/null."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with ExitStack() as stack:
        nothing = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, nothing)
        for number, source in enumerate((nothing, target, target)):
            before = os.dup(number)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, number)
            os.dup2(source, number)
        yield


def _files(name: str) -> dict[str, str] | None:
    """Return a bottle's changes in its clone: names, and the kind and content of each; None if not known."""
    with suppress(BottleError), manage.diff(name, "--raw", "-z", "--no-abbrev", "--no-renames") as stream:
        words = stream.read().decode("utf-8", "surrogateescape").split("\0")
        pairs = zip(words[::2], words[1::2], strict=False)
        return {path: _change(facts) for facts, path in pairs}
    return None


def _change(facts: str) -> str:
    """Parse `:OLDMODE NEWMODE OLD NEW LETTER` of git diff --raw."""
    _, mode, _, content, letter = facts.split()
    return f"{_CHANGES.get(letter, letter)} {mode} {content}"


_SORTED = 16 << 20  # bytes of output whose lines are sorted and compared
_UNKNOWN = "not known"
_QEMU = "qemu."  # of how QEMU itself is confined: no other backend has it
_BACKENDS_OWN = {"HOSTNAME", "TERM"}  # set by docker and smolvm themselves: shown, but no difference


@dataclass(slots=True)
class Side:
    """The result of one of the two runs; None means not known. `seconds` are those of the command alone."""

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


class Row(Struct, frozen=True):
    """One thing that was compared, with the value of each run. `same` is None where it is not known."""

    what: str
    left: str
    right: str
    same: bool | None


def compare(left: Side, right: Side) -> Iterator[Row]:
    """Yield the rows of a comparison; variables, files and hosts have a row for each that differs."""
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
    """Yield rows for two tables: the number of entries, then each that differs or only one of them has.

    `shown` returns what may be shown of a value; `unjudged` are entries that may differ.
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
    """Return for each probe of a record whether it got out. How it was refused may differ."""
    if not isinstance(proof, dict) or not proof:
        return None
    outcomes = {
        str(key): value.get("outcome") if isinstance(value, dict) else value
        for key, value in proof.items()
        if not str(key).startswith((STATUS, _QEMU))
    }
    return {name: str(word) if word in ("open", "error") else "closed" for name, word in outcomes.items()}


def _output(left: Path, right: Path) -> Row:
    """Compare the output of two commands. stdout and stderr may be interleaved differently."""
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

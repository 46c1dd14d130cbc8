"""The search for secrets in what a push adds: file contents, and the messages of commits and tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import BinaryIO

from bot_bottle.git.checks import Refusal, reading, spooled, streaming
from bot_bottle.host.text import printable
from bot_bottle.scan.detectors import rules
from bot_bottle.scan.scan import LARGEST, scan_file
from bot_bottle.workspace.git import Git

_MOST_OBJECTS = 500_000
_MOST_BYTES = 1 << 30  # of contents that are searched
_MOST_FINDINGS = 20  # that are reported
_MOST_BASES = 20  # commits that are looked at for what was there before
_CHUNK = 1 << 16
_BY_HEADER = ("Private Key", "credentials in a credential file")  # the line is the same for other values


def check_secrets(git: Git, tips: Sequence[str], commits: Mapping[str, Sequence[str]]) -> None:
    """Search new objects; lines that were there before the new commits are not new. Raises Refusal."""
    bases = list({parent for parents in commits.values() for parent in parents} - {*commits})[:_MOST_BASES]

    @cache
    def earlier(path: str) -> frozenset[bytes]:
        blobs = (git.run("cat-file", "blob", f"{base}:{path}", check=False).stdout for base in bases)
        return frozenset(line for blob in blobs for line in blob.split(b"\n"))

    found: list[str] = []
    with rules():
        for name, path, line, kind in _findings(git, tips):
            if path and kind not in _BY_HEADER and _line_of(git, name, line) in earlier(path):
                continue
            place = f"{printable(path, limit=200)}:{line}" if path else f"the message of {name[:12]}"
            found.append(f"{place}: {kind}")
            if len(found) >= _MOST_FINDINGS:
                break
    if found:
        raise Refusal("this looks like a secret, and is not pushed:", *dict.fromkeys(found))


def _findings(git: Git, tips: Sequence[str]) -> Iterator[tuple[str, str, int, str]]:
    """Yield the object, path ("" for a message), line and kind of what looks like a secret in new objects."""
    paths = _new_objects(git, tips)
    wanted, total = [], 0
    form = "%(objectname) %(objecttype) %(objectsize)"
    with (
        spooled(f"{name}\n".encode() for name in paths) as names,
        reading(git, "cat-file", f"--batch-check={form}", input=names) as lines,
    ):
        for line in lines:
            name, kind, length = line.split()
            if kind != "tree":
                wanted.append(name)
                total += min(int(length), LARGEST)
    if total > _MOST_BYTES:
        raise Refusal(f"the push has {total} bytes to search for secrets; {_MOST_BYTES} is the most")
    with (
        spooled(f"{name}\n".encode() for name in wanted) as names,
        streaming(git, "cat-file", "--batch", input=names) as stream,
    ):
        for name in wanted:
            size = int(stream.readline().split()[2])
            pieces = _pieces(stream, size)
            for number, what in islice(scan_file(paths[name], size, pieces), _MOST_FINDINGS):
                yield name, paths[name], number, what
            for _ in pieces:
                pass
            stream.read(1)  # a line break ends the object


def _pieces(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size and (data := stream.read(min(size, _CHUNK))):
        size -= len(data)
        yield data


def _line_of(git: Git, name: str, number: int) -> bytes:
    """Return a line of an object, by its number from 1."""
    with streaming(git, "cat-file", "blob", name) as stream:
        return next(islice(stream, number - 1, None), b"").removesuffix(b"\n")


def _new_objects(git: Git, tips: Sequence[str]) -> dict[str, str]:
    """Return the names of new objects, and a path of each that has one. Raises Refusal."""
    found = {}
    with reading(git, "rev-list", "--objects", *tips, "--not", "--all") as lines:
        for line in islice(lines, _MOST_OBJECTS + 1):
            name, _, path = line.partition(" ")
            found[name] = path
    if len(found) > _MOST_OBJECTS:
        raise Refusal(f"the push has more than {_MOST_OBJECTS} new objects")
    return found

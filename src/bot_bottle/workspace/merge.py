"""Merge two trees in an index of our own: one side's changes are taken, those of both merged by line.

Only git's own merge by lines is used; drivers that attributes name are not.
"""

from __future__ import annotations

from dataclasses import replace

from bot_bottle.errors import ConflictError
from bot_bottle.host.text import printable
from bot_bottle.workspace.git import Git

Entry = tuple[str, str]  # mode and blob

_FILES = {"100644", "100755"}
_SHOWN = 20


def merge_trees(git: Git, base: str, mine: str, theirs: str) -> str:
    """Give the tree that holds both sides' changes. Raises ConflictError, which lists where they differ."""
    own = replace(git, index=git.folder / "merge.index")
    own.run("read-tree", "-i", "-m", "--aggressive", base, mine, theirs)
    settled, unmerged = _entries(own)
    merged = {path: _merge_entry(own, stages) for path, stages in unmerged.items()}
    there = settled | {path for path, result in merged.items() if result}
    above = {path[:end] for path in there for end, char in enumerate(path) if char == ord("/")}
    conflicts = [path for path, result in merged.items() if result is None or path in there & above]
    if conflicts:
        shown = [printable(path) for path in sorted(conflicts)]
        more = [f"and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
        raise ConflictError(
            "the bottle's work conflicts with what is in your folder; nothing was changed",
            why="\n".join(shown[:_SHOWN] + more),
            next_step="commit your own work, then git merge the bottle's branch and resolve it there",
        )
    gone = ("0", "0" * len(base))
    lines = [f"{' '.join(result or gone)}\t".encode() + path + b"\0" for path, result in merged.items()]
    own.run("update-index", "-z", "--index-info", input=b"".join(lines))
    return own.run("write-tree").text


def _entries(git: Git) -> tuple[set[bytes], dict[bytes, dict[int, Entry]]]:
    """Give the names that are settled, and the stages of those that are not: 1 base, 2 mine, 3 theirs."""
    settled: set[bytes] = set()
    unmerged: dict[bytes, dict[int, Entry]] = {}
    with (git.folder / "entries").open("w+b") as file:
        git.run("ls-files", "--stage", "-z", output=file)
        file.seek(0)
        for line in file.read().split(b"\0")[:-1]:
            facts, _, path = line.partition(b"\t")
            mode, blob, stage = facts.decode().split(" ")
            if stage == "0":
                settled.add(path)
            else:
                unmerged.setdefault(path, {})[int(stage)] = (mode, blob)
    return settled, unmerged


def _merge_entry(git: Git, stages: dict[int, Entry]) -> Entry | tuple[()] | None:
    """Give what becomes of a name: an entry, () if it goes, None if the sides cannot be joined."""
    base, mine, theirs = (stages.get(number) for number in (1, 2, 3))
    if base == mine or mine == theirs:
        return theirs or ()
    if base == theirs:
        return mine or ()
    if base and mine and theirs and {base[0], mine[0], theirs[0]} <= _FILES:
        return _merge_file(git, base, mine, theirs)
    return None


def _merge_file(git: Git, base: Entry, mine: Entry, theirs: Entry) -> Entry | None:
    """Merge a file by lines."""
    paths = []
    for number, (_, blob) in enumerate((mine, base, theirs)):
        paths.append(git.folder / f"side-{number}")
        with paths[-1].open("wb") as file:
            git.run("cat-file", "blob", blob, output=file)
    result = git.folder / "merged"
    with result.open("wb") as file:
        done = git.run("merge-file", "-p", "-q", *paths, output=file, check=False)
    if done.code:
        return None
    blob = git.run("hash-object", "-w", "--no-filters", result).text
    return theirs[0] if mine[0] == base[0] else mine[0], blob

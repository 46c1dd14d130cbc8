"""File systems that lack what is usual: network ones, full and broken ones. Calls fail as they do there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.bottle import Bottle


def faulty(bottle: Bottle, fault: str) -> Bottle:
    """Run `bottle` with a system call that fails: `CALL:error=ERROR`, as strace has it."""
    call = fault.partition(":")[0]
    options = ("-qqf", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={fault}")
    return replace(bottle, prefix=("strace", *options))


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("flock:error=ENOLCK", 107, ("No locks available", "local file system")),  # NFS without its daemon
        ("flock:error=EOPNOTSUPP", 107, ("Operation not supported", "local file system")),
        ("mkdir:error=EDQUOT", 108, ("Disk quota exceeded", "free some space")),
        ("fsync:error=EIO", 107, ("Input/output error", "dmesg")),
        ("rename:error=EIO", 107, ("Input/output error", "dmesg")),
        ("rename:error=ESTALE", 107, ("Stale file handle", "local file system")),
    ],
)
def test_a_system_call_that_fails_is_explained(
    bottle: Bottle, saved: Path, fault: str, code: int, words: tuple[str, ...]
) -> None:
    done = faulty(bottle, fault)("pack", "-q", "--archive", saved)
    done.failed(code, "Next: ", *words)
    assert bottle.artifacts == []
    assert not bottle.leftovers


@pytest.mark.parametrize(
    "fault",
    ["copy_file_range:error=EXDEV", "copy_file_range:error=EOPNOTSUPP", "sync_file_range:error=ENOSYS"],
)
def test_a_pack_works_without_system_calls_that_only_save_time(
    bottle: Bottle, saved: Path, fault: str
) -> None:
    path = faulty(bottle, fault)("pack", "-q", "--archive", saved).path
    assert bottle("verify", path, "--archive", saved).code == 0
    assert not bottle.leftovers

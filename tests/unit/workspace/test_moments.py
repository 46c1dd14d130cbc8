"""A clone in the middle of its agent's work: while git writes there, and where it was killed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from tests.support.repos import WHO, Repo

from bot_bottle.workspace.clone import Clone
from bot_bottle.workspace.fetch import collect

# two branches that grow, are packed, and go again
WORK = """
n=0
while :; do
    n=$((n+1))
    echo $n > file
    git add file
    git commit -q -m $n
    git branch side-$n
    test $((n % 4)) != 0 || git pack-refs --all
    test $((n % 10)) != 0 || git repack -a -d -q
    git branch -q -D side-$n
done
"""


@contextmanager
def working(top: Path) -> Iterator[subprocess.Popen[bytes]]:
    agent = subprocess.Popen(["sh", "-ec", WORK], cwd=top, env={**os.environ, **WHO}, start_new_session=True)
    try:
        yield agent
    finally:
        os.killpg(agent.pid, 9)
        agent.wait()


def test_commits_are_taken_while_the_agent_makes_them(user: Repo, agent: Repo, clone: Clone) -> None:
    heads = [clone.record.base]
    with working(agent.top) as work:
        for _ in range(8):
            clone, done = collect(clone, ended=False)
            heads.append(done.head)
            assert done.branch == "bottle/ship" or done.head == clone.record.base
        assert work.poll() is None
    assert heads[-1] != clone.record.base
    for older, newer in pairwise(heads):
        user.git("merge-base", "--is-ancestor", older, newer)


@pytest.mark.parametrize(
    "name",
    ["refs/heads/bottle/ship.lock", "refs/tags/v2.lock", "refs/stash.lock", "packed-refs.lock", "HEAD.lock"],
)
def test_what_git_was_about_to_write_is_no_reference(
    user: Repo, agent: Repo, clone: Clone, name: str
) -> None:
    head = agent.commit({"new": "1\n"})
    half_made = agent.git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "never finished")
    (agent.top / ".git" / name).write_text(f"{half_made}\n")
    _, work = collect(clone, ended=True)
    assert (work.head, work.branch, work.others) == (head, "bottle/ship", ())
    assert user.git("cat-file", "-t", half_made, check=False) == ""

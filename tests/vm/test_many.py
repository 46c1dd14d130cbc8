"""MicroVMs that work beside each other, and such as are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.callers import Caller, caller
from tests.support.engines import Docker
from tests.support.killing import killed_at_any_moment, states


@pytest.fixture
def root(docker: Docker, shared_cache: Path) -> Iterator[Caller]:
    with caller(0, docker, cache=shared_cache) as who:
        yield who
        who.bottle("stop", "-t", "0", *states(who.bottle))


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(3, marks=pytest.mark.timeout(900)),
        pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(6000)]),
    ],
)
def test_microvms_killed_at_any_moment_leave_nothing_and_lose_no_commit(
    root: Caller, git_image: str, times: int
) -> None:
    killed_at_any_moment(root, times, 30.0, "-m", "512m", "--image", git_image)

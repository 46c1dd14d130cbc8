"""A real agent in a microVM without KVM: it repairs a test, and its commit comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.agents import KEY, bodies, hold_work_came_back, in_world, repository, sent
from tests.support.bottle import Bottle
from tests.support.cache import parts
from tests.support.canary import Canary, holders
from tests.support.engines import Docker
from tests.support.model_server import LAST
from tests.support.world import World


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_claude_repairs_a_test_and_the_next_one_continues_its_conversation(
    docker: Docker, base: str, outside: World, shared_cache: Path, tmp_path: Path
) -> None:
    bottle = Bottle(shared_cache, docker.variables)
    (tmp_path / "born").touch()
    canary = Canary(tmp_path / "born", KEY.encode(), b"")
    there = repository(tmp_path / "repo", base)
    shown = bottle("claude", "--accel=direct", there.top, "--", "--version", timeout=1800)
    assert (shown.code, shown.out.strip()) == (0, "2.1.332 (Claude Code)"), shown
    own = in_world(bottle, outside, ANTHROPIC_API_KEY=KEY)
    asked = ("claude", "--accel=direct", "--name=blue", there.top, "-p", "Make the test pass.")
    done = own(*asked, timeout=1800)
    hold_work_came_back(own, there, "blue", done)
    refused = own("logs", "--egress", "blue")
    assert refused.out == "", refused
    assert holders(KEY.encode()) == []
    assert sent(outside, "x-api-key") == {KEY}
    outside.forget()
    continued = ("claude", "--accel=direct", there.top, "-p", "And now?", "--", "--continue")
    again = own(*continued, timeout=1800)
    assert (again.code, LAST in again.out) == (0, True), again
    assert any("Make the test pass." in each and "And now?" in each for each in bodies(outside)), again
    # the artifact's files too, which are in the cache as QEMU reads them, not compressed
    assert any((shared_cache / "smolmachines").glob("*.erofs"))
    assert canary.places(*parts(shared_cache), tmp_path / "bot-bottle-state") == []
    assert not bottle.leftovers

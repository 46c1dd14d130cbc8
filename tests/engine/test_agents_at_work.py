"""The real agents in containers: limits, logins, models that fail, and credentials that are nowhere found."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.agents import KEY, hold_work_came_back, in_world, musl_image, repository, sent
from tests.support.bottle import Bottle, end, wait_until
from tests.support.canary import Canary, holders, relatives, remembers
from tests.support.engines import CHECKOUT, Docker, Podman
from tests.support.model_server import LAST
from tests.support.world import World

VARIABLES = {
    "claude": "ANTHROPIC_API_KEY",
    "codex": "OPENAI_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "opencode": "ANTHROPIC_API_KEY",
}
PROMPT = ("-p", "Make the test pass.")
DOCKER = "--backend=docker"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def faults(outside: World) -> Iterator[Path]:
    """The file of what goes wrong in the world."""
    path = outside.folder / "faults"
    yield path
    path.unlink(missing_ok=True)


def fetch(bottle: Bottle, agent: str, *source: str | Path) -> None:
    """Have an agent's packages in the cache: the world has no registry."""
    shown = bottle(agent, DOCKER, *source, "--", "--version", timeout=900)
    assert shown.code == 0, shown


def asked(outside: World, end: str) -> int:
    """Return how many requests there were to paths that end so."""
    return sum("method" not in each and each.get("path", "").endswith(end) for each in outside.seen())


@pytest.mark.parametrize("agent", VARIABLES)
def test_an_agent_ends_when_its_budget_is_used_up_and_its_work_comes_back(
    bottle: Bottle, base: str, outside: World, shared_cache: Path, tmp_path: Path, agent: str
) -> None:
    there = repository(tmp_path / "repo", base)
    fetch(bottle, agent, there.top)
    outside.forget()
    own = in_world(bottle, outside, **{VARIABLES[agent]: KEY})
    done = own(agent, DOCKER, "--max-tokens=150", "--name=blue", there.top, *PROMPT, timeout=900)
    assert done.code == 1, done
    assert "the budget of 150 tokens is used up" in done.out + done.err
    shown = json.loads(own("inspect", "--json", "blue").out)
    assert (shown["limit"], shown["exit_status"]) == ("tokens", 1)
    assert shown["usage"]["output_tokens"] == 40
    logged = [json.loads(line) for line in own("logs", "--egress", "--json", "blue").out.splitlines()]
    # gemini asks one model which other one is to answer
    assert sum("budget" in each["reason"] and each["method"] == "POST" for each in logged) <= 2
    assert f"usage    {shown['usage']['requests']} requests, " in done.err
    assert "\nwork     " in done.err


def test_claude_goes_on_after_a_model_that_fails(
    bottle: Bottle, base: str, outside: World, faults: Path, shared_cache: Path, tmp_path: Path
) -> None:
    there = repository(tmp_path / "repo", base)
    fetch(bottle, "claude", there.top)
    own = in_world(bottle, outside, ANTHROPIC_API_KEY=KEY)
    faults.write_text("429 529 cut 401 slow")
    done = own("claude", DOCKER, "--name=blue", there.top, *PROMPT, timeout=900)
    assert faults.read_text() == "", done
    hold_work_came_back(own, there, "blue", done)


def test_a_key_of_bottle_login_serves_an_agent_in_the_background_and_for_scripts(
    bottle: Bottle, base: str, outside: World, shared_cache: Path, tmp_path: Path
) -> None:
    there = repository(tmp_path / "repo", base)
    fetch(bottle, "claude", there.top)
    outside.forget()
    (tmp_path / "key").write_text(f"{KEY}\n")
    own = in_world(bottle, outside, HOME=str(tmp_path), ANTHROPIC_API_KEY=None)
    assert own("login", "claude", "--from-file", tmp_path / "key").code == 0
    begun = own("run", "-q", "-d", "--agent=claude", DOCKER, "--name=red", there.top, *PROMPT, timeout=900)
    assert begun.out == "red\n", begun
    scripted = own("claude", "--json", DOCKER, "--name=blue", there.top, *PROMPT, timeout=900)
    assert scripted.code == 0, scripted
    result = json.loads(scripted.out)
    assert (result["type"], result["is_error"], result["result"]) == ("result", False, LAST)
    followed = own("logs", "-f", "red", timeout=900)
    assert followed.out.startswith(f"{LAST}\n"), followed
    for name in ("red", "blue"):
        shown = json.loads(own("show", "--json", name).out)
        assert (shown["exit_status"], shown["git"]["commits"]) == (0, 1)
        assert shown["usage"]["output_tokens"] >= 80
    assert sent(outside, "x-api-key") == {KEY}


def test_a_login_ends_while_two_agents_work_and_none_of_it_is_in_them_or_stays(
    bottle: Bottle,
    docker: Docker,
    base: str,
    outside: World,
    faults: Path,
    shared_cache: Path,
    tmp_path: Path,
) -> None:
    there = repository(tmp_path / "repo", base)
    fetch(bottle, "claude", there.top)
    outside.forget()
    value = f"canary-{secrets.token_hex(16)}"
    login = tmp_path / ".claude" / ".credentials.json"
    login.parent.mkdir()

    def write(ends: float) -> None:
        tokens: dict[str, object] = {"accessToken": f"{value}-access-0", "refreshToken": f"{value}-refresh-0"}
        tokens |= {"expiresAt": int((time.time() + ends) * 1000), "scopes": ["user:inference"]}
        login.write_text(json.dumps({"claudeAiOauth": tokens}))

    write(3600)
    (tmp_path / "born").touch()
    canary = Canary(tmp_path / "born", value.encode(), b"")
    own = in_world(bottle, outside, HOME=str(tmp_path), ANTHROPIC_API_KEY=None)
    assert own("login", "claude").code == 0
    faults.write_text("hold " * 20)
    fan = own.start("fan", "2", "--agent=claude", DOCKER, "-m2g", "--name=try", "--json", there.top, *PROMPT)
    wait_until(lambda: asked(outside, "/messages") >= 2 or fan.poll() is not None, 600, pause=0.1)
    assert fan.poll() is None, fan.communicate()
    kept = (shared_cache, tmp_path / "bot-bottle-state")
    for name in ("bottle-try-1", "bottle-try-2"):
        described = docker.docker("inspect", name)
        assert value.encode() not in described
        pid = json.loads(described)[0]["State"]["Pid"]
        inside = relatives(pid)
        assert len(inside) >= 2
        assert not [each for each in inside if remembers(each, value.encode())]
        files = ["grep", "-rlsF", "--exclude-dir=proc", "--exclude-dir=sys", value, f"/proc/{pid}/root/"]
        assert subprocess.run(files, capture_output=True, timeout=300, check=False).stdout == b""
    assert holders(value.encode()) == []
    assert canary.places(*kept) == []
    write(-1)
    faults.unlink()
    done = end(fan, 900)
    assert done.code == 0, done
    assert [row["commits"] for row in json.loads(done.out)] == [1, 1]
    assert asked(outside, "/oauth/token") == 1
    refreshed = f"{value}-refresh-access"
    bearers = sent(outside, "authorization") - {None}
    assert {str(each).rpartition("-")[0] for each in bearers} == {
        f"Bearer {value}-access",
        f"Bearer {refreshed}",
    }
    assert json.loads(login.read_text())["claudeAiOauth"]["accessToken"].startswith(refreshed)
    said = [
        own("show", "--json", "try-1").out,
        own("logs", "try-1").out,
        own("logs", "--egress", "--all", "try-1").out,
    ]
    assert not [text for text in (*said, done.out, done.err) if value in text]
    assert canary.places(*kept) == []


def test_claude_works_with_podman(
    podman_bottle: Bottle, podman: Podman, base: str, outside: World, shared_cache: Path, tmp_path: Path
) -> None:
    podman.podman("import", "--change", 'CMD ["/bin/bash"]', str(CHECKOUT / ".cache/agent/base.tar"), base)
    there = repository(tmp_path / "repo", f"localhost/{base}")
    fetch(podman_bottle, "claude", there.top)
    own = in_world(podman_bottle, outside, ANTHROPIC_API_KEY=KEY)
    own = replace(own, prefix=outside.prefix_of_podman)
    done = own("claude", DOCKER, "--name=blue", there.top, *PROMPT, timeout=900)
    hold_work_came_back(own, there, "blue", done)


def test_claude_works_on_an_image_with_musl(
    bottle: Bottle, docker: Docker, outside: World, shared_cache: Path, tmp_path: Path
) -> None:
    there = repository(tmp_path / "repo", "scratch")
    own = in_world(bottle, outside, ANTHROPIC_API_KEY=KEY)
    image = musl_image(docker, tmp_path / "musl")
    fetch(bottle, "claude", "--image", image)
    done = own("claude", DOCKER, "--name=blue", "--image", image, *PROMPT, cwd=there.top, timeout=900)
    assert (done.code, done.out) == (0, f"{LAST}\n"), done
    assert own("apply", "blue", cwd=there.top).code == 0  # it has no git, and has committed nothing
    assert "a + b" in (there.top / "calc.py").read_text()

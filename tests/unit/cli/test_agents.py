"""Agents on the command line: what is chosen, what a repository's file needs a grant for, and `-p`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support.repos import Repo, make_repo

from bot_bottle.cli.main import bottle
from bot_bottle.errors import BottleError, SpecError, TrustError, UsageError


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A repository with a Dockerfile, of a user without credentials of agents."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = make_repo(tmp_path / "repo")
    made.commit({"Dockerfile": "FROM scratch\n"})
    monkeypatch.chdir(made.top)
    return made


def plan(command: str, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoked(command, "--backend=docker", "--plan", "--json", *args))
    return found


def invoked(*args: str) -> str:
    done = CliRunner().invoke(bottle, args)
    if isinstance(done.exception, BottleError):
        raise done.exception
    return done.stdout


def test_the_command_of_an_agent_is_run_with_its_profile(
    there: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "/opt/bot-bottle/bin/claude"
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-1")
    found = plan("claude")
    assert (found["command"], found["workspace"]) == ([program, "--dangerously-skip-permissions"], "clone")
    assert (found["source"], found["egress"]["allow"]) == (str(there.top), ["api.anthropic.com:443"])
    assert found["secrets"] == [{"name": "ANTHROPIC_API_KEY", "kind": "env", "hosts": ["api.anthropic.com"]}]
    assert "IS_SANDBOX" in found["env"]
    assert plan("run", "--agent", "claude")["command"] == found["command"]
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat")
    with_token = plan("run", "--agent", "claude", "--workspace", "none", "--allow", "example.org", "--", "sh")
    assert [each["name"] for each in with_token["secrets"]] == ["CLAUDE_CODE_OAUTH_TOKEN"]
    assert (with_token["command"], with_token["workspace"]) == (["sh"], "none")
    assert with_token["egress"]["allow"] == ["example.org", "api.anthropic.com:443"]
    assert plan("claude", "--network", "none")["secrets"] == []


def test_a_prompt_is_put_where_the_agent_has_it(there: Repo) -> None:
    def words(*args: str) -> list[str]:
        return [*plan(*args)["command"]][1:]

    assert words("codex", "-p", "fix it", "--", "--model", "m") == [
        "exec", "--dangerously-bypass-approvals-and-sandbox", "--model", "m", "--", "fix it"
    ]  # fmt: skip
    assert words("run", "--agent", "gemini", "-p", "fix it") == ["--yolo", "--prompt", "fix it"]
    assert words("opencode", ".", "--", "models") == ["models"]
    assert words("claude", "--", "--version") == ["--version"]
    assert words("claude", "--agent-from", "image") == ["--dangerously-skip-permissions"]
    for args in (
        ("run", "--prompt", "x"),
        ("run", "--agent=claude", "-p", "x", "--", "sh"),
        ("run", "--agent=claude", "--archive", "x.tar"),
        ("claude", "--agent", "claude@/"),
        ("run", "--no-state"),
    ):
        with pytest.raises(UsageError):
            plan(*args)
    with pytest.raises(UsageError) as caught:
        plan("claude", "--continue")
    assert "come after --" in caught.value.next_step


def test_a_repository_without_dockerfile_gets_an_image(there: Repo, tmp_path: Path) -> None:
    (there.top / "Dockerfile").unlink()
    made = plan("claude")
    assert made["name"].startswith(there.top.name)
    source = Path(made["source"])
    assert (source / "Dockerfile").read_text().count("FROM debian") == 1
    own = tmp_path / "config" / "bot-bottle" / "agents"
    own.mkdir(parents=True)
    (own / "claude.toml").write_text('extends = "claude"\nimage = "mine:1"\n')
    assert plan("claude")["source"] == "mine:1"
    with pytest.raises(SpecError, match="no Dockerfile"):
        plan("run")


def test_a_repository_may_choose_an_agent_which_has_to_be_granted(there: Repo) -> None:
    (there.top / "bottle.toml").write_text('[agent]\nname = "claude"\nversion = "2.1.0"\n')
    assert plan("run")["command"][0] == "/opt/bot-bottle/bin/claude"
    assert plan("run", "--agent", "none", "--", "true")["workspace"] == "none"
    with pytest.raises(TrustError) as caught:
        invoked("run", "--backend=docker")
    assert "reach api.anthropic.com:443" in str(caught.value)
    assert "use your credential ANTHROPIC_API_KEY for api.anthropic.com" in str(caught.value)
    (there.top / "bottle.toml").write_text('[agent]\nname = "claude"\nhosts = ["example.org"]\n')
    with pytest.raises(SpecError, match="cannot be used"):
        plan("run")
    (there.top / "bottle.toml").write_text('[agent]\nversion = "1"\n')
    with pytest.raises(SpecError, match=r"agent\.version needs"):
        plan("run")

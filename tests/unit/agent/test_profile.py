"""Profiles: those that are shipped are whole, one's own may extend them, and bad ones are explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bot_bottle.agent import profile as profiles
from bot_bottle.agent.choice import Pin, Record, choose, write_record
from bot_bottle.cli.main import bottle
from bot_bottle.errors import AgentError, SpecError, UsageError
from bot_bottle.network.policy import parse_policy

OWN_HASH = "sha512-" + "A" * 86 + "=="
FILE = 'about = "mine"\nversion = "1"\nrelease = "mine"\n[[packages]]\nname = "mine"\nprogram = ["mine"]\n'


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own profiles."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("BOT_BOTTLE_STATE_DIR", str(tmp_path / "state"))
    folder = tmp_path / "config" / "bot-bottle" / "agents"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", profiles.shipped_names())
def test_shipped_profiles_have_a_pinned_program_for_every_debian_image(name: str) -> None:
    agent = choose(name)
    for arch in ("amd64", "arm64"):
        found = agent.packages(arch, "glibc")
        assert [each.name for each in found if not each.integrity] == []
    assert agent.profile.headless.count("{prompt}") == agent.profile.headless_json.count("{prompt}") == 1
    policy = parse_policy(agent.profile.hosts)
    for credential in agent.profile.credentials.values():
        with_hosts = parse_policy([*agent.profile.hosts, *(f"{host}:443" for host in credential.hosts)])
        assert all(with_hosts.decide(host, 443).allowed for host in credential.hosts)
    assert not policy.open


def test_an_agent_without_packages_for_an_image_says_so() -> None:
    with pytest.raises(AgentError, match="no package of gemini for amd64 images with musl"):
        choose("gemini").packages("amd64", "musl")
    assert not choose("codex").depends_on_libc("amd64")


def test_an_own_profile_extends_another(own: Path) -> None:
    (own / "careful.toml").write_text(
        'extends = "claude"\ncommand = []\n[env]\nIS_SANDBOX = "0"\nMORE = "1"\n'
        '[seed.".claude/settings.json"]\ncontent = "{}"\n'
    )
    (own / "claude.toml").write_text('extends = "claude"\nabout = "as I like it"\n')
    found, below = profiles.load("careful"), profiles.load("claude")
    assert below.about == "as I like it"
    assert (found.name, found.command, found.hosts) == ("careful", [], below.hosts)
    assert found.env == {**below.env, "IS_SANDBOX": "0", "MORE": "1"}
    assert found.seed[".claude/settings.json"].content == "{}"
    assert found.seed[".claude.json"] == below.seed[".claude.json"]
    assert profiles.names() == ["careful", "claude", "codex", "gemini", "opencode"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('extends = "two"', "extends has to name another agent"),
        ("extends = 1", "extends has to name another agent"),
        ('extends = "nobody"', "there is no agent 'nobody'"),
        (FILE, "packages.0.integrity: Field required"),
        (f'{FILE}integrity = "sha1-x"', "packages.0.integrity: 'sha1-x' is not sha512-"),
        (f'{FILE}integrity = "{OWN_HASH}"\nfolder = "../.."', "does not name something in its folder"),
        (f'{FILE}integrity = "{OWN_HASH}"\nscript = "x"', "packages.0.script: no such key"),
        (
            f'{FILE}integrity = "{OWN_HASH}"\n[seed."/etc/passwd"]\ncontent = ""',
            "'/etc/passwd' does not name",
        ),
        (f'{FILE}integrity = "{OWN_HASH}"\n[env]\n"a b" = ""', "'a b' is not the name of a variable"),
        ("version = [", "is not TOML"),
    ],
)
def test_bad_profiles_are_explained(own: Path, text: str, said: str) -> None:
    (own / "one.toml").write_text(text + "\n")
    (own / "two.toml").write_text('extends = "one"\n')
    with pytest.raises(SpecError) as caught:
        profiles.load("one")
    assert said in str(caught.value)


def test_versions_are_chosen_in_order(own: Path) -> None:
    hashes = {"@anthropic-ai/claude-code-linux-x64": OWN_HASH}
    name = "@anthropic-ai/claude-code-linux-x64"
    assert choose("claude").origin == "the profile"
    write_record("claude", Record("2.2.0", {f"{name}@2.2.0": OWN_HASH}))
    updated = choose("claude")
    assert (updated.version, updated.origin) == ("2.2.0", "bottle agents update")
    assert [each.integrity for each in updated.packages("amd64", "glibc")] == [OWN_HASH]
    pinned = choose("claude", Pin("claude", "2.1.0", hashes))
    assert (pinned.version, pinned.origin) == ("2.1.0", "bottle.toml")
    assert [each.integrity for each in pinned.packages("amd64", "glibc")] == [OWN_HASH]
    assert choose("codex", Pin("claude", "2.1.0")).origin == "the profile"
    given = choose("claude@2.0.0", Pin("claude", "2.1.0", hashes))
    assert (given.version, given.origin) == ("2.0.0", "--agent")
    assert [each.integrity for each in given.packages("amd64", "glibc")] == [""]
    with pytest.raises(UsageError, match="not a version"):
        choose("claude@../x")


def test_the_command_lists_and_shows_them(own: Path) -> None:
    (own / "mine.toml").write_text(f'{FILE}integrity = "{OWN_HASH}"\n')
    listed = json.loads(CliRunner().invoke(bottle, ["agents", "ls", "--json"]).output)
    assert [each["name"] for each in listed if each["own"]] == ["mine"]
    shown = CliRunner().invoke(bottle, ["agents", "show", "claude"]).output
    assert "reaches      api.anthropic.com:443" in shown
    assert "not used beside CLAUDE_CODE_OAUTH_TOKEN" in shown

"""`bottle login` and `bottle logout`: where a login is from, where it is stored, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support.repos import make_repo
from tests.unit.login.conftest import API, VARIABLE, User

from bot_bottle.agent.launcher import launcher
from bot_bottle.agent.profile import load
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cli.agent import credentials
from bot_bottle.cli.main import bottle
from bot_bottle.config.settings import gather
from bot_bottle.engine.source import Source
from bot_bottle.errors import BottleError, EngineError, SecretError, SpecError, UsageError
from bot_bottle.login import records
from bot_bottle.login.values import resolve, variables, with_hosts
from bot_bottle.network.policy import parse_policy
from bot_bottle.secrets.build import parse_build_secrets
from bot_bottle.secrets.reference import Reference, parse

KEY = "sk-ant-api03-canary-c5"


def run(*argv: str, fails: type[BottleError] | None = None) -> str:
    done: Result = CliRunner().invoke(bottle, argv)
    if fails is not None:
        assert isinstance(done.exception, fails), done.output
        assert "canary" not in str(done.exception)
        return str(done.exception)
    assert done.exception is None, done.exception
    assert "canary" not in done.output
    return done.output


def value(name: str, agent: str) -> str:
    return resolve([Reference(name, "login", agent)], print)[name].reveal()


def stored(home: Path) -> str:
    return "".join(path.read_text() for path in (home.parent / "state").rglob("*") if path.is_file())


def test_a_key_in_a_variable_is_stored_in_a_private_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", f"{KEY}\n")
    assert "claude: an API key for ANTHROPIC_API_KEY, in " in run("login", "claude", "--from-env", "MINE")
    path = home.parent / "state" / "logins" / "claude.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert value("ANTHROPIC_API_KEY", "claude") == KEY
    assert variables("claude") == ("ANTHROPIC_API_KEY",)
    listed = {each["name"]: each for each in json.loads(run("login", "--json"))}
    assert listed["claude"]["login"] == "API key in a private file"
    assert listed["codex"]["login"] == "none"
    assert run("logout", "claude") == "claude: forgotten\n"
    assert KEY not in stored(home)
    assert "there is no login claude" in run("logout", "claude", fails=SecretError)
    with pytest.raises(SecretError, match="there is no login claude"):
        value("ANTHROPIC_API_KEY", "claude")


def test_a_key_is_stored_in_the_keychain_where_there_is_one(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "secret-tool"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncase $1 in store) cat > {tmp_path}/entry ;;'
        f" lookup) cat {tmp_path}/entry ;; clear) rm {tmp_path}/entry ;; esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    (home / "key").write_text(f"{KEY}\n")
    assert "in your keychain" in run("login", "claude", "--from-file", f"{home}/key")
    assert KEY not in stored(home) + (tmp_path / "asked").read_text()
    assert value("ANTHROPIC_API_KEY", "claude") == KEY
    run("logout", "claude")
    assert not (tmp_path / "entry").exists()
    (tmp_path / "entry").write_text(KEY)
    run("login", "claude", "--from-keychain", "mine/me")
    assert value("ANTHROPIC_API_KEY", "claude") == KEY
    run("logout", "claude")
    assert (tmp_path / "entry").exists()  # it is the user's own
    tool.write_text("#!/bin/sh\nexit 1\n")  # there is no session with a keychain
    assert "which only you can read" in run("login", "claude", "--from-file", f"{home}/key")


def test_the_token_of_a_subscription_is_for_another_variable(home: Path) -> None:
    (home / "key").write_text("sk-ant-oat01-canary")
    run("login", "claude", "--from-file", str(home / "key"))
    assert variables("claude") == (VARIABLE,)
    with pytest.raises(SecretError, match="has no value for ANTHROPIC_API_KEY"):
        value("ANTHROPIC_API_KEY", "claude")


def test_the_agents_own_login_is_used_and_not_copied(user: User) -> None:
    run("logout", "claude")
    assert f"bottle login claude uses {user.file}" in run("login")
    assert "its own login on this machine is used" in run("login", "claude")
    assert variables("claude") == (VARIABLE,)
    assert "refreshed before 20" in run("login")
    assert "canary" not in stored(user.home)


def test_a_login_of_a_kind_that_bottle_cannot_use_is_named(home: Path) -> None:
    file = home / ".local/share/opencode/auth.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"anthropic": {"type": "oauth", "access": "canary", "refresh": "canary", "expires": 0}}')
    said = run("login", "opencode", fails=SecretError)
    assert f"there is no API key in {file}" in said
    assert "bottle login opencode --key" in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("nobody", "--key"), "there is no agent 'nobody'"),
        (("claude",), "there is no terminal to ask for an API key"),
        (("claude", "--from-agent"), "claude has no login on this machine"),
        (("gemini", "--from-agent"), "bottle cannot use the own login of gemini"),
        (("gemini",), "bottle can only use an API key for gemini"),
        (("claude", "--key", "--from-env", "MINE"), "give one of"),
        (("--from-env", "MINE"), "whose login is this?"),
        (("claude", "--from-env", "MISSING"), "no variable MISSING is set"),
        (("claude", "--from-env", "OTHER"), "its keys begin with sk-ant-oat or sk-ant-"),
        (("claude", "--from-env", "LINES"), "this is not an API key"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_login_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("MINE", KEY)
    monkeypatch.setenv("OTHER", "canary")
    monkeypatch.setenv("LINES", f"{KEY}\n{KEY}")
    kind = UsageError if said.startswith(("whose", "give one")) or "terminal" in said else BottleError
    assert said in run("login", *argv, fails=kind)
    assert not list((home.parent / "state").rglob("*.json"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"form": "other"}', "[" * 100_000, "\xff"])
def test_a_record_that_is_not_ours_is_an_error(home: Path, text: str) -> None:
    records.save_own("claude")
    (records.folder() / "claude.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SecretError, match="the login claude cannot be read"):
        value(VARIABLE, "claude")
    assert "cannot be used" in run("login")
    run("logout", "claude")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"claudeAiOauth": []}', '{"claudeAiOauth": {"accessToken": 1}}']
)
def test_an_agents_file_without_a_login_is_an_error(user: User, content: str) -> None:
    user.file.write_text(content)
    with pytest.raises(SecretError, match="the login of claude"):
        value(VARIABLE, "claude")


def test_an_agent_gets_its_login_before_a_key_of_the_environment(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    profile, settings = load("claude"), gather({}, None)
    assert credentials(profile, settings) == {VARIABLE: Reference(VARIABLE, "login", "claude", (API,))}
    run("login", "claude", "--from-env", "ANTHROPIC_API_KEY")
    name = "ANTHROPIC_API_KEY"
    assert credentials(profile, settings) == {name: Reference(name, "login", "claude", (API,))}
    run("logout", "claude")
    assert credentials(profile, settings) == {name: Reference(name, "env", name, (API,))}


@pytest.mark.parametrize("command", [("fan", "1", "-m256m", "--backend=docker"), ("run", "--twin")])
def test_a_login_is_for_several_bottles_at_once_too(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    repo = make_repo(tmp_path / "repo")
    repo.commit({"file": "x"})
    monkeypatch.chdir(repo.top)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    given = ("--engine=docker", "--image=x", f"--allow={API}")
    # the login was found, or the engine would not be needed
    run(*command, *given, f"--secret=id={VARIABLE},login=claude", "--", "true", fails=EngineError)


@pytest.mark.parametrize("variable", ["BOTTLE_CODEX_ACCESS_TOKEN", "OPENAI_API_KEY"])
def test_codex_finds_placeholders_where_it_has_its_login(tmp_path: Path, variable: str) -> None:
    profile = load("codex")
    [package, *_] = profile.packages
    script = tmp_path / "codex"
    script.write_text(launcher(profile, [package]))
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], variable: "PLACEHOLDER"}
    done = subprocess.run(["sh", str(script)], env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 127  # the agent is not there
    document = json.loads((tmp_path / ".codex" / "auth.json").read_text())
    if variable == "OPENAI_API_KEY":
        assert document == {variable: "PLACEHOLDER"}
    else:
        assert (document["OPENAI_API_KEY"], list(document["tokens"].values())[1]) == (None, "PLACEHOLDER")
    assert [path.name for path in (tmp_path / ".codex").iterdir() if "auth" in path.name] == ["auth.json"]


def test_a_login_is_for_its_own_hosts_only() -> None:
    secret = parse([f"id={VARIABLE},login=claude"])[VARIABLE]
    assert with_hosts(secret).hosts == (API,)
    for text, said in (
        (
            f"id={VARIABLE},login=claude,host=other.example.org",
            "other.example.org is not a host of the login",
        ),
        ("id=KEY,login=claude", "the login claude has no value for KEY"),
        (f"id={VARIABLE},login=nobody", "there is no agent 'nobody'"),
    ):
        with pytest.raises(SpecError, match=said):
            with_hosts(next(iter(parse([text]).values())))
    other = Reference(VARIABLE, "login", "claude", ("other.example.org",))
    policy = parse_policy(["other.example.org"])
    for wrong in (other, Reference(VARIABLE, "login", "claude")):
        with pytest.raises(SpecError):
            BottleSpec(Source(image="x"), "a", secrets=(wrong,), egress=policy)
    with pytest.raises(SpecError, match="cannot have hosts, or be a login"):
        parse_build_secrets([f"id={VARIABLE},login=claude"])

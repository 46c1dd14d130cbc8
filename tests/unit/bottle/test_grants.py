"""A repository's file is granted nothing that its user has not seen."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bot_bottle.bottle.grants import (
    Request,
    extend_grant,
    requested_by_build,
    requested_grants,
    require_grant,
)
from bot_bottle.cli.main import bottle
from bot_bottle.config import file
from bot_bottle.config.settings import gather
from bot_bottle.errors import TrustError
from bot_bottle.host import paths


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOT_BOTTLE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch\n")
    return folder


def write(project: Path, text: str) -> None:
    (project / "bottle.toml").write_text(text)


def hold(
    project: Path, *, answer: bool = False, yes: bool = False, without: tuple[str, ...] = ()
) -> list[str]:
    asked: list[str] = []

    def ask(question: str) -> bool:
        asked.append(question)
        return answer

    require_grant(
        requested_grants(gather({}, file.find(project, upwards=False)), without=without), ask, yes=yes
    )
    return asked


def test_a_file_that_asks_for_nothing_needs_no_grant(project: Path) -> None:
    write(project, 'command = ["ls"]\nworkspace = "clone"\n[env]\nA = "1"\n')
    assert hold(project) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[egress]\nallow = ["api.example.org"]\n', "reach api.example.org"),
        ("[egress]\nopen = true\n", "unrestricted network"),
        ("[egress]\nhost_ports = [5432]\n", "reach port 5432 of this machine"),
        ('[git]\npush = ["origin"]\n', "fetch from and push to the remote origin"),
        ('[git]\nbranches = ["main"]\n', "push the branches main"),
        ("[git]\nsecrets = false\n", "push without a search for secrets"),
        ('workspace = "mount"\n', "write to"),
        ('[secrets.KEY]\nfile = "~/.netrc"\n', "secrets KEY: file ~/.netrc"),
    ],
)
def test_what_is_asked_for_is_shown_once_and_remembered(project: Path, text: str, told: str) -> None:
    write(project, text)
    with pytest.raises(TrustError) as refused:
        hold(project)
    assert told in refused.value.why
    [question] = hold(project, answer=True)
    assert told in question
    assert hold(project) == []


def test_a_change_is_asked_about_again_and_another_folder_too(project: Path, tmp_path: Path) -> None:
    write(project, '[egress]\nallow = ["api.example.org"]\n')
    assert hold(project, yes=True) == []
    write(project, '[egress]\nallow = ["api.example.org", "evil.example"]\n')
    with pytest.raises(TrustError):
        hold(project)
    write(project, '[egress]\nallow = ["api.example.org"]\n')
    assert hold(project) == []
    other = tmp_path / "other"
    other.mkdir()
    write(other, '[egress]\nallow = ["api.example.org"]\n')
    with pytest.raises(TrustError):
        hold(other)


def test_what_an_option_overrules_needs_no_grant(project: Path) -> None:
    write(project, '[egress]\nallow = ["api.example.org"]\n')
    assert hold(project, without=("egress.",)) == []


def test_grants_are_the_users_alone(project: Path) -> None:
    old = os.umask(0)
    try:
        write(project, '[egress]\nallow = ["api.example.org"]\n')
        hold(project, yes=True)
    finally:
        os.umask(old)
    folder = paths.state_dir() / "trust"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def run(*args: str) -> Result:
    return CliRunner().invoke(bottle, ["run", *args])


def test_run_refuses_without_a_terminal_before_anything_is_built(project: Path) -> None:
    write(project, '[egress]\nallow = ["api.example.org"]\n')
    result = run(str(project))
    assert isinstance(result.exception, TrustError)
    assert result.exception.exit_code == 120


def test_network_none_and_allow_exclude_each_other(project: Path) -> None:
    result = run("--network", "none", "--allow", "api.example.org", str(project))
    assert "exclude" in str(result.exception)


BUILD = '[image]\nssh = ["default", "deploy=~/.ssh/id"]\n[image.secrets.npm-token]\nenv = "NPM_TOKEN"\n'
COMMANDS = [("pack",), ("cache", "why"), ("run", "--plan"), ("fan", "2")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_a_build_gets_of_the_users_own_needs_a_grant(
    project: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no engine
    write(project, BUILD)

    def end(*options: str) -> str:
        after = ("--", "true") if command[0] == "fan" else ()
        return str(CliRunner().invoke(bottle, [*command, *options, str(project), *after]).exception)

    refused = end()
    for line in (
        "have its build read the secret npm-token: env NPM_TOKEN",
        "have its build use SSH as default: your agent",
        "have its build use SSH as deploy: ~/.ssh/id",
    ):
        assert line in refused
    # what an option says instead is no more the repository's to ask for
    rest = end("--build-secret=id=npm-token,env=OTHER", "--ssh=deploy=/other")
    assert ("as default" in rest, "npm-token" in rest, "deploy" in rest) == (True, False, False)
    others = ("--build-secret=id=npm-token,env=OTHER", "--ssh=default", "--ssh=deploy=/other")
    assert "not granted" not in end(*others)
    require_grant(requested_by_build(gather({}, file.find(project, upwards=False))), lambda _: True)
    assert "not granted" not in end()
    write(project, BUILD.replace("NPM_TOKEN", "AWS_SECRET_ACCESS_KEY"))
    assert "AWS_SECRET_ACCESS_KEY" in end()
    assert "not granted" not in end("--archive", "missing.tar").replace(str(project), "")


def requested(project: Path) -> Request:
    return requested_grants(gather({}, file.find(project, upwards=False), project))


def test_hosts_that_were_added_with_a_yes_are_not_asked_about_again(project: Path) -> None:
    write(project, '[egress]\nallow = ["a.example.org"]\n')
    hold(project, yes=True)
    before = requested(project)
    write(project, '[egress]\nallow = ["a.example.org", "b.example.org:443", "pypi"]\n')
    extend_grant(before, requested(project), ["b.example.org:443", "pypi"])
    assert hold(project) == []


def test_a_first_file_with_hosts_that_got_a_yes_is_granted(project: Path) -> None:
    before = requested(project)
    write(project, '[egress]\nallow = ["a.example.org"]\n')
    extend_grant(before, requested(project), ["a.example.org"])
    assert hold(project) == []


@pytest.mark.parametrize(
    "text",
    [
        '[egress]\nallow = ["a.example.org", "b.example.org", "evil.example.net"]\n',
        '[egress]\nallow = ["evil.example.net", "b.example.org"]\n',
        'workspace = "mount"\n[egress]\nallow = ["a.example.org", "b.example.org"]\n',
        'ports = ["80"]\n[egress]\nallow = ["a.example.org", "b.example.org"]\n',
        '[egress]\nallow = ["a.example.org", "b.example.org"]\n[secrets.A]\nenv = "A"\n',
    ],
)
def test_what_the_file_requests_besides_is_not_granted_with_them(project: Path, text: str) -> None:
    write(project, '[egress]\nallow = ["a.example.org"]\n')
    hold(project, yes=True)
    before = requested(project)
    write(project, text)
    extend_grant(before, requested(project), ["b.example.org"])
    with pytest.raises(TrustError):
        hold(project)


def test_hosts_added_to_what_was_never_granted_do_not_grant_it(project: Path) -> None:
    write(project, '[egress]\nallow = ["a.example.org"]\n')
    before = requested(project)
    write(project, '[egress]\nallow = ["a.example.org", "b.example.org"]\n')
    extend_grant(before, requested(project), ["b.example.org"])
    with pytest.raises(TrustError):
        hold(project)

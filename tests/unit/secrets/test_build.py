"""Secrets and SSH agents of a build: how they are named, read and given, and what is refused."""

from __future__ import annotations

import csv
import os
import socket
from pathlib import Path

import pytest

from bot_bottle.errors import SecretError, SpecError
from bot_bottle.host.redact import environment, redacted
from bot_bottle.secrets.build import (
    LARGEST,
    BuildSecret,
    Ssh,
    parse_build_secrets,
    parse_ssh,
    resolve_mounts,
)

VALUE = "canary-5f0c81a9\n"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("id=TOKEN", BuildSecret("TOKEN", "env", "TOKEN")),
        ("id=npm-token.1,env=TOKEN", BuildSecret("npm-token.1", "env", "TOKEN")),
        ("id=npmrc,src=~/.npmrc", BuildSecret("npmrc", "file", "~/.npmrc")),
        ("type=file,id=npmrc,source=a b", BuildSecret("npmrc", "file", "a b")),
        ('id=x,"src=a,b"', BuildSecret("x", "file", "a,b")),
        ("id=x,keychain=example/me", BuildSecret("x", "keychain", "example/me")),
    ],
)
def test_a_secret_is_read_as_docker_build_has_it(text: str, secret: BuildSecret) -> None:
    assert parse_build_secrets([text]) == {secret.name: secret}


@pytest.mark.parametrize(
    "text",
    [
        "",
        VALUE,
        "id=",
        "id=-x,env=A",
        "id=a b,env=A",
        "id=a/../b,src=x",
        "id=a,b=c",
        "id=x,env=A,src=b",
        "id=x,env=A-B",
        "id=x,src=",
        "id=x,src=a\0b",
        "id=x,type=file,env=A",
        "id=npm-token",  # would be a variable of that name, which there cannot be
        "id=x,env=A,host=example.org",
        f"id={'x' * 200},env=A",
    ],
)
def test_what_is_no_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_build_secrets([text])
    assert VALUE.strip() not in str(caught.value)


def test_the_value_of_a_variable_is_in_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", VALUE)
    options = resolve_mounts([BuildSecret("token", "env", "MINE")], ())
    assert options.argv == ("--secret=id=token,env=BOT_BOTTLE_BUILD_SECRET_0",)
    assert options.env == {"BOT_BOTTLE_BUILD_SECRET_0": VALUE}  # as it is, with its line break
    assert VALUE.strip() not in redacted(f"it printed {VALUE}")
    kept = environment({**os.environ, **options.env})
    assert kept is not None
    assert ("MINE" in kept, kept["BOT_BOTTLE_BUILD_SECRET_0"]) == (False, VALUE)


def test_a_file_is_named_and_its_content_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    content = "user = somebody\npassword = canary-of-a-file\n"
    (tmp_path / 'odd, "name').write_text(content)
    places = ('odd, "name', '~/odd, "name', str(tmp_path / 'odd, "name'))
    options = resolve_mounts([BuildSecret("rc", "file", place) for place in places], ())
    for option in options.argv:
        [fields] = csv.reader([option.removeprefix("--secret=")])
        assert fields == ["id=rc", f'src={tmp_path}/odd, "name']
    assert options.env == {}
    assert "canary-of-a-file" not in redacted("#7 0.2 password = canary-of-a-file")


def test_a_build_secret_may_have_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "store.p12").write_bytes(bytes(range(256)) * (LARGEST // 256))
    options = resolve_mounts([BuildSecret("store", "file", str(tmp_path / "store.p12"))], ())
    assert options.argv == (f"--secret=id=store,src={tmp_path}/store.p12",)


@pytest.mark.parametrize("made", ["nothing", "fifo", "folder", "device", "link out", "too large", "unset"])
def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str) -> None:
    monkeypatch.delenv("MINE", raising=False)
    path = tmp_path / "folder" / "secret"
    path.parent.mkdir()
    secret = BuildSecret("token", "file", str(path))
    match made:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            secret = BuildSecret("token", "file", "/dev/zero")
        case "link out":
            path.symlink_to("/etc/hostname")
        case "too large":
            path.write_bytes(bytes(LARGEST + 1))
        case "unset":
            secret = BuildSecret("token", "env", "MINE")
    with pytest.raises(SecretError, match="token"):
        resolve_mounts([secret], ())


@pytest.mark.parametrize(
    ("text", "ssh"),
    [
        ("default", Ssh("default")),
        ("github=~/.ssh/id", Ssh("github", ("~/.ssh/id",))),
        ("two=/a,/b", Ssh("two", ("/a", "/b"))),
    ],
)
def test_an_agent_is_read_as_docker_build_has_it(text: str, ssh: Ssh) -> None:
    assert parse_ssh([text]) == {ssh.name: ssh}


@pytest.mark.parametrize("text", ["", "=", "=/a", "default=", "a=/b,", "-v", "a b", "a\0=/b", "a=/b\0"])
def test_what_is_no_agent_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="SSH"):
        parse_ssh([text])


def test_an_agent_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(SecretError, match="SSH_AUTH_SOCK is not set"):
        resolve_mounts((), [Ssh("default")])
    with pytest.raises(SecretError, match="no SSH key or socket"):
        resolve_mounts((), [Ssh("default", (str(tmp_path / "key"),))])
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        two = ("~/agent", str(tmp_path / "agent"))
        agents = [Ssh("default"), Ssh("other", ("~/agent",)), Ssh("two", two)]
        assert resolve_mounts((), agents).argv == (
            "--ssh=default",
            f"--ssh=other={tmp_path}/agent",
            f"--ssh=two={tmp_path}/agent,{tmp_path}/agent",
        )

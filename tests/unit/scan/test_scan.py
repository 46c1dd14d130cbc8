"""Secrets in layers, variables, history and artifacts: found where they are, and never shown."""

from __future__ import annotations

import base64
import json
import re
import secrets
import string
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support.crafted import Member, config, digest, file, files_tar, layer, saved_files

from bot_bottle.api import convert, scan
from bot_bottle.cli.main import bottle
from bot_bottle.engine.source import Source
from bot_bottle.host.progress import Progress
from bot_bottle.scan.credential_files import in_command, in_variables, is_known
from bot_bottle.scan.detectors import in_text, is_settings, rules


def letters(count: int) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(count - 4)) + "aZ9k"


GITHUB = f"ghp_{letters(36)}"
ANTHROPIC = f"sk-ant-api03-{letters(60)}"
KEY = "\n".join(
    ["-----BEGIN OPENSSH PRIVATE KEY-----", base64.b64encode(secrets.token_bytes(48)).decode(), "-----END"]
)


def saved_image(path: Path, *layers: list[Member], history: tuple[str, ...] = (), **run: Any) -> Path:
    tars = [layer(members) for members in layers]
    conf = json.loads(config(tars, **run)) | {"history": [{"created_by": step} for step in history]}
    files = saved_files(tars)
    [entry] = json.loads(files.pop("manifest.json"))
    del files[entry["Config"]]
    files |= {"config.json": json.dumps(conf).encode()}
    manifest = json.dumps([{**entry, "Config": "config.json"}]).encode()
    path.write_bytes(files_tar({**files, "manifest.json": manifest}))
    return path


def found(path: Path) -> list[tuple[str, str, int, str]]:
    return [(each.layer, each.path, each.line, each.kind) for each in scan(Source(archive=path))]


def test_a_clean_image_has_nothing(tmp_path: Path) -> None:
    plain = [file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"), file("app/main.py", b"password = input()\n")]
    assert found(saved_image(tmp_path / "i.tar", plain, Env=["PATH=/bin", "TOKEN_FILE=/run/t"])) == []


def test_what_a_later_layer_deletes_is_found(tmp_path: Path) -> None:
    lower = [file("app/notes.txt", f"one\ntwo {GITHUB} x\n".encode()), file("root/.ssh/id_rsa", KEY.encode())]
    upper = [file("app/.wh.notes.txt", b""), file("root/.ssh/.wh.id_rsa", b"")]
    assert found(saved_image(tmp_path / "i.tar", lower, upper)) == [
        (digest(layer(lower)), "app/notes.txt", 2, "GitHub Token"),
        (digest(layer(lower)), "root/.ssh/id_rsa", 1, "credentials in a credential file"),
        (digest(layer(lower)), "root/.ssh/id_rsa", 1, "Private Key"),
    ]


def test_variables_and_history_are_looked_at(tmp_path: Path) -> None:
    history = (
        f"RUN |1 NPM_TOKEN={letters(20)} /bin/sh -c npm install",
        f"RUN curl -H {ANTHROPIC} x",
        "RUN ls",
    )
    image = saved_image(tmp_path / "i.tar", [], history=history, Env=[f"API_KEY={letters(9)}", f"A={GITHUB}"])
    assert found(image) == [
        ("config", "ENV API_KEY", 0, "a variable named as a secret"),
        ("config", "ENV A", 0, "GitHub Token"),
        ("history", "step 1", 0, "a variable named as a secret"),
        ("history", "step 2", 0, "Anthropic API Key"),
    ]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("app/.env", "A=1\n\nDB_PASSWORD=x9"), ("app/.env.local", "export TOKEN='x9'"),
        ("root/.netrc", "machine a login b password x9"), ("r/.git-credentials", "https://me:x9@example.org"),
        ("src/.git/config", "[remote]\n url = https://me:x9@example.org/a"),
        ("r/.aws/credentials", "[default]\naws_secret_access_key = x9"), ("r/.npmrc", "//r/:_authToken=x9"),
        ("r/.docker/config.json", '{"auths": {"r": {"auth": "eDk="}}}'), ("r/.pypirc", "[p]\npassword = x9"),
        ("r/.kube/config", "users:\n  token: x9"), ("r/.config/gh/hosts.yml", "h:\n  oauth_token: x9"),
        ("r/.claude/.credentials.json", '{"accessToken": "x9"}'), ("r/.vault-token", "x9"),
        ("r/.pgpass", "h:1:d:u:x9"), ("r/server.key", KEY), ("id_ed25519", KEY),
    ],
)  # fmt: skip
def test_credentials_in_their_usual_files_are_found(tmp_path: Path, path: str, content: str) -> None:
    image = saved_image(tmp_path / "i.tar", [file(path, content.encode())])
    line = next(n for n, text in enumerate(content.splitlines(), 1) if re.search("x9|BEGIN|eDk=", text))
    assert (path, line, "credentials in a credential file") in [each[1:] for each in found(image)]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("app/.env", "TOKEN=\nTOKEN=$OTHER\nDEBUG=1\nKEYS=3"), ("r/.npmrc", "//r/:_authToken=${NPM_TOKEN}"),
        ("src/.git/config", "[remote]\n url = https://example.org/a"),
        ("r/.docker/config.json", '{"auth": ""}'),
        ("server.pem", "-----BEGIN CERTIFICATE-----"), ("id_rsa.pub", "ssh-rsa AAAA"),
        ("usr/share/doc/a", "https://user:example@example.org/"),
        ("usr/lib/ssh.py", 'HEAD = "-----BEGIN OPENSSH PRIVATE KEY-----"\nEND = 1\n'),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_secret_is_passed_over(tmp_path: Path, path: str, content: str) -> None:
    assert found(saved_image(tmp_path / "i.tar", [file(path, content.encode())])) == []


def test_words_count_in_settings_that_are_no_packages() -> None:
    with rules():
        for text in ("db_password: 'hunter2x9'", 'password = "hunter2x9"'):
            assert list(in_text("", text, settings=True)) == [(1, "Secret Keyword")]
            assert list(in_text("", text, settings=False)) == []
    assert is_settings("app/config/prod.yaml")
    assert is_settings("home/me/.npmrc")
    assert not is_settings("usr/lib/python3/x.ini")
    assert not is_settings("app/node_modules/a/package.json")
    assert not is_settings("app/main.py")


def test_variables_named_as_secrets_are_found_when_they_have_a_value() -> None:
    env = ["DB_PASSWORD=x9", "API_KEY2=x9", "EMPTY_TOKEN=", "KEY_FILE=/f", "GITHUB_TOKEN=$T", "TOKENS_MAX=9"]
    assert [each.path for each in in_variables(env, "config")] == ["ENV DB_PASSWORD", "ENV API_KEY2"]
    assert in_command('RUN |2 A=1 MY_SECRET="x 9" /bin/sh -c make')
    assert not in_command("RUN |1 MY_SECRET= /bin/sh -c make TOKEN=$TOKEN --token=x")
    assert not is_known("a/id_rsa.pub/x")


def test_binaries_are_passed_over_and_texts_are_read_part_by_part(tmp_path: Path) -> None:
    members = [
        file("bin", b"\x7fELF\0" + GITHUB.encode()),
        file("long", b"x\n" * (1 << 20) + GITHUB.encode() + b"\n" + b"x" * (1 << 20) + b"\n" + KEY.encode()),
        file("many", f"{GITHUB}\n".encode() * 1000),
    ]
    lines = [each[1:3] for each in found(saved_image(tmp_path / "i.tar", members))]
    assert lines[:2] == [("long", (1 << 20) + 1), ("long", (1 << 20) + 3)]
    assert lines[2:] == [("many", line) for line in range(1, 21)]


def test_a_long_line_takes_no_more_time_than_its_length_and_is_searched_whole(tmp_path: Path) -> None:
    hostile = b"//x" * (1 << 15) + b"://" * (1 << 15)
    tokens = b"".join(b"y" * 4090 + b" " + f"ghp_{letters(36)} ".encode() for _ in range(5))
    begun = time.process_time()  # of the processor: others may keep it busy
    members = [file("hostile", hostile), file("a/long.js", b"1\n" + tokens)]
    assert [each[1:] for each in found(saved_image(tmp_path / "i.tar", members))] == [
        ("a/long.js", 2, "GitHub Token")
    ]
    assert time.process_time() - begun < 15


def test_an_artifact_is_searched_and_packing_it_warned(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lower = [file("app/.env", f"TOKEN={GITHUB}".encode()), file("gone", GITHUB.encode())]
    image = saved_image(
        tmp_path / "i.tar", lower, [file(".wh.gone", b"")], Env=["MY_PASSWORD=x9"], Cmd=["/a"]
    )
    done = convert(Source(archive=image), progress=Progress("quiet"))
    warned = capfd.readouterr().err
    assert warned.count("warning: secrets seem to be in the artifact: ENV MY_PASSWORD: a variable") == 1
    assert "app/.env; see bottle scan" in warned
    assert [(each.layer, each.path) for each in scan(done.entry.path)] == [
        ("manifest", "ENV MY_PASSWORD"),
        ("root", "app/.env"),
        ("root", "app/.env"),
    ]
    assert GITHUB not in warned


def test_the_command_shows_where_and_never_what(tmp_path: Path) -> None:
    members = [file("a/t.txt", GITHUB.encode()), file("b/\x1b[31m", ANTHROPIC.encode())]
    image = saved_image(tmp_path / "i.tar", members)
    shown = CliRunner().invoke(bottle, ["scan", str(image)], standalone_mode=False)
    assert shown.return_value == 122
    assert "  a/t.txt:1: GitHub Token\n" in shown.stdout
    assert "2 places look like secrets" in shown.stdout
    assert shown.stderr.startswith("scan  ")
    as_json = CliRunner().invoke(
        bottle, ["scan", "--json", "--exclude", "b/*", str(image)], standalone_mode=False
    )
    [only] = json.loads(as_json.stdout)["findings"]
    assert only == {
        "layer": digest(layer(members)),
        "path": "a/t.txt",
        "line": 1,
        "kind": "GitHub Token",
    }
    every = shown.output + as_json.output
    assert not [secret for secret in (GITHUB, ANTHROPIC, "\x1b") if secret in every]
    clean = CliRunner().invoke(bottle, ["scan", "--exclude", "*", str(image)], standalone_mode=False)
    assert clean.return_value == 0
    assert "nothing looks like a secret" in clean.stdout

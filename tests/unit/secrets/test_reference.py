"""References of secrets: read, refused, resolved, and their values never shown."""

from __future__ import annotations

import json
import logging
import os
import pickle
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from bot_bottle.backend import BackendName
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cli.main import bottle, run
from bot_bottle.engine.engine import BuildRequest
from bot_bottle.engine.source import Source
from bot_bottle.errors import SecretError, SpecError
from bot_bottle.host import process, redact
from bot_bottle.host.redact import Secret, redacted, redacted_document
from bot_bottle.network.policy import parse_policy
from bot_bottle.secrets.fifo import secret_fifos
from bot_bottle.secrets.reference import LARGEST, Reference, parse, resolve
from bot_bottle.vm.accel import Accel

CANARY = "canary-5a17-value"


@pytest.fixture(autouse=True)
def _nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_hidden", set())
    monkeypatch.setattr(redact, "_variables", set())


def value(reference: Reference) -> str:
    return resolve([reference])[reference.name].reveal()


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("id=KEY", Reference("KEY", "env", "KEY")),
        ("id=KEY,type=env", Reference("KEY", "env", "KEY")),
        ("id=KEY,env=MINE", Reference("KEY", "env", "MINE")),
        ("type=env,env=MINE,id=KEY", Reference("KEY", "env", "MINE")),
        ("id=KEY,src=a=b", Reference("KEY", "file", "a=b")),
        ("type=file,id=KEY,source=/f", Reference("KEY", "file", "/f")),
        ('id=KEY,"src=a,b"', Reference("KEY", "file", "a,b")),
        ("id=KEY,keychain=git/me", Reference("KEY", "keychain", "git/me")),
        ("id=KEY,host=api.example.org,host=b.example.org",
         Reference("KEY", "env", "KEY", ("api.example.org", "b.example.org"))),
        ("id=KEY,host=a.org,body=true", Reference("KEY", "env", "KEY", ("a.org",), body=True)),
        ("id=KEY,host=a.org,body=false", Reference("KEY", "env", "KEY", ("a.org",))),
    ],
)  # fmt: skip
def test_it_is_read_as_docker_build_has_it(text: str, reference: Reference) -> None:
    assert parse([text]) == {"KEY": reference}


@pytest.mark.parametrize(
    "text",
    [
        "", CANARY, f"KEY={CANARY}", f"id=KEY,value={CANARY}", f"id={CANARY}", f"id=KEY,{CANARY}",
        f"id={CANARY},env=A,src=B", "id=KEY,env=A,src=B", "id=KEY,env=A,env=B", "id=KEY,id=KEY", "env=A",
        "id=KEY,type=file", "id=KEY,type=env,src=f", "id=KEY,type=socket", f"id=KEY,env={CANARY}",
        "id=KEY,env=",
        "id=KEY,src=", "id=1KEY", "id=KEY,keychain=one", "id=KEY,keychain=-s/me", "id=KEY,host=*.example.org",
        "id=KEY,host=api.example.org:443", "id=KEY,host=API.example.org", "id=KEY,host=", "id=KEY,host=a..b",
        "id=KEY,body=true", "id=KEY,host=a.org,body=yes", "id=KEY,host=a.org,body=true,body=true",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse([text])
    assert CANARY not in str(caught.value)


def test_a_variable_is_read_and_kept_from_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", CANARY + "\n\n")
    assert value(Reference("KEY", "env", "MINE")) == CANARY
    seen = process.run(["sh", "-c", 'echo "[$MINE]"'], timeout=10)
    assert seen.text == "[]"
    assert process.run(["sh", "-c", 'echo "[$MINE]"'], timeout=10, env={"MINE": "x"}).text == "[]"
    assert os.environ["MINE"]  # a bottle in the background is a process of ours, which reads it again


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"v\n", "v"), (b"v", "v"), (b"\n a\nb \n\n", "\n a\nb "), (b"v\r\n", "v\r"), ("é".encode(), "é")],
)
def test_a_file_is_read_without_its_last_line_breaks(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "f").write_bytes(content)
    assert value(Reference("KEY", "file", str(tmp_path / "f"))) == expected


def test_a_file_of_the_largest_size_is_read_and_a_larger_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "f").write_bytes(b"x" * LARGEST + b"\n")
    assert len(value(Reference("KEY", "file", "~/f"))) == LARGEST
    (tmp_path / "f").write_bytes(b"x" * (LARGEST + 1))
    with pytest.raises(SecretError, match="too large: the limit is 64 KiB"):
        resolve([Reference("KEY", "file", "~/f")])


def test_links_are_followed_within_their_folder(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    (home / "..data").mkdir(parents=True)
    other.mkdir()
    (other / "key").write_text(CANARY)
    (home / "..data" / "token").write_text("inside")
    (home / "token").symlink_to("..data/token")
    (home / "out").symlink_to(other / "key")
    (home / "hop").symlink_to("out")
    (home / "none").symlink_to("missing")
    assert value(Reference("KEY", "file", str(home / "token"))) == "inside"
    for name in ("out", "hop"):
        with pytest.raises(SecretError, match="a link to another folder"):
            resolve([Reference("KEY", "file", str(home / name))])
    with pytest.raises(SecretError, match="No such file"):
        resolve([Reference("KEY", "file", str(home / "none"))])


@pytest.mark.parametrize("made", ["missing", "folder", "fifo", "empty", "nul", "latin", "blank"])
def test_what_is_no_value_is_told_without_it(tmp_path: Path, made: str) -> None:
    path = tmp_path / "f"
    contents = {"empty": b"", "nul": b"canary-5a17\0", "latin": b"canary-5a17\xff", "blank": b"\n\n"}
    match made:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _ if made in contents:
            path.write_bytes(contents[made])
    with pytest.raises(SecretError) as caught:
        resolve([Reference("KEY", "file", str(path))])
    assert "KEY" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_variable_that_is_missing_ends_the_command_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no engine is even looked for
    monkeypatch.delenv("MINE", raising=False)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    assert run(["run", "--secret", "id=KEY,env=MINE", str(tmp_path), "--", "true"]) == 121
    assert "no variable MINE is set" in capfd.readouterr().err


class TestKeychain:
    """A `secret-tool` on PATH stands for one that a desktop has."""

    @pytest.fixture(autouse=True)
    def _linux(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.platform", "linux")
        tool = tmp_path / "secret-tool"
        tool.write_text(
            '#!/bin/sh\n[ "$*" = "lookup service git username me" ] || exit 1\n'
            f"printf {CANARY}\n[ -z \"$BROKEN\" ] || {{ echo {CANARY} >&2; exit 2; }}\n"
        )  # fmt: skip
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def test_it_is_asked_for_service_and_user(self) -> None:
        assert value(Reference("KEY", "keychain", "git/me")) == CANARY

    def test_what_it_does_not_have_is_told(self) -> None:
        with pytest.raises(SecretError, match="is not in the keychain as git/you"):
            resolve([Reference("KEY", "keychain", "git/you")])

    def test_where_there_is_none_it_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(SecretError, match=r"is no keychain program\n.*secret-tool is not installed"):
            resolve([Reference("KEY", "keychain", "git/me")])


def test_a_secret_does_not_show_its_value() -> None:
    secret = Secret(CANARY)
    shown = [repr(secret), str(secret), f"{secret}", "%s" % secret, repr([secret]), repr({"a": secret})]  # noqa: UP031
    assert CANARY not in "".join(shown)
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError, match="cannot be serialized"):
        pickle.dumps(secret)


def test_it_is_struck_out_of_texts_documents_errors_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    Secret('first-"line" here\nsecond-line\nx')
    assert redacted('<first-"line" here> second-line x') == "<***> *** x"
    assert redacted_document({"a": ["second-line", 1, None], "b": ("second-line",)}) == {
        "a": ["***", 1, None],
        "b": ["***"],
    }
    assert "first" not in redacted(json.dumps({"a": 'first-"line" here\nsecond-line\nx'}))
    Secret(CANARY)
    with caplog.at_level(logging.INFO, "bot_bottle"), pytest.raises(process.CommandFailed) as caught:
        process.run(["sh", "-c", f"echo {CANARY} >&2; exit 1"], timeout=10)
    assert CANARY not in str(caught.value) + caplog.text


def test_a_short_one_is_left_for_texts_to_stay_texts() -> None:
    Secret("a")
    assert redacted("a failure") == "a failure"


def test_a_file_may_refer_to_secrets_and_not_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[secrets.A]\nenv = "MINE"\n[secrets.B]\nfile = "~/b"\nhosts = ["api.example.org"]\n'
    text += '[egress]\nallow = ["api.example.org"]\n'
    (tmp_path / "bottle.toml").write_text(text)
    monkeypatch.setenv("MINE", CANARY)
    done = CliRunner().invoke(bottle, ["config", "--secret", "id=A,src=/a", "--json", str(tmp_path)])
    shown = json.loads(done.stdout)
    assert shown["secrets.A"] == {"value": "file /a", "from": "--secret"}
    assert shown["secrets.B"] == {
        "value": "file ~/b for api.example.org",
        "from": str(tmp_path / "bottle.toml"),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f'[secrets]\nA = "{CANARY}"', "secrets.A: a value is never written here"),
        (
            f'[secrets.A]\nvalue = "{CANARY}"',
            "secrets.A.value: no such key; the keys are env, file, keychain",
        ),
        ("[secrets.A]", "the secret A needs exactly one source"),
        ('[secrets.A]\nenv = "A"\nfile = "/a"', "the secret A needs exactly one source"),
        ('[secrets.A]\nfile = "a"', "secrets.A.file must be absolute"),
        ('[secrets.A]\nfile = "~you/a"', "secrets.A.file must be absolute"),
        ('[secrets."A=B"]\nenv = "A"', "the id of a secret is a variable's name"),
        ('[secrets.A]\nenv = "A"\nhosts = ["*"]', "invalid host name: '*'"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "bottle.toml").write_text(text)
    done = CliRunner().invoke(bottle, ["config", str(tmp_path)])
    assert isinstance(done.exception, SpecError)
    assert told in str(done.exception)
    assert CANARY not in str(done.exception)


@pytest.mark.parametrize(
    ("env", "reference", "told"),
    [
        ("KEY", Reference("KEY", "env", "MINE"), "KEY is given both as --env and as --secret"),
        ("MINE", Reference("KEY", "env", "MINE"), "the secret KEY is read from it"),
        ("A", Reference("KEY", "env", "MINE", ("api.example.org",)), "which is not allowed"),
    ],
)
def test_what_does_not_go_together_is_refused(env: str, reference: Reference, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        BottleSpec(Source(image="i"), "s", env=((env, "x"),), secrets=(reference,))


def test_a_build_argument_is_no_place_for_a_secret() -> None:
    source = Source(build=BuildRequest(context=Path(), build_args=(("MINE", None),)))
    with pytest.raises(SpecError, match="MINE is passed on unchanged"):
        BottleSpec(source, "s", secrets=(Reference("KEY", "env", "MINE"),))


def test_hosts_are_for_what_the_bottle_may_reach_from_a_microvm() -> None:
    def spec(name: str, host: str, backend: BackendName = "smolmachines", accel: Accel = "kvm") -> BottleSpec:
        reference = Reference(name, "env", "MINE", (host,))
        egress = parse_policy(["api.example.org", "*.example.net"])
        return BottleSpec(
            Source(image="i"), "s", backend=backend, accel=accel, secrets=(reference,), egress=egress
        )

    assert spec("KEY", "api.example.org").secrets[0].described()["hosts"] == ["api.example.org"]
    assert spec("KEY", "a.example.net")
    with pytest.raises(SpecError, match=r"for other\.example\.org, which is not allowed"):
        spec("KEY", "other.example.org")
    with pytest.raises(SpecError, match="which is not allowed"):
        spec("KEY", "other.example.org", "docker")


def test_a_fifo_passes_a_secret_once_and_is_removed(tmp_path: Path) -> None:
    values = {"A": Secret("x" * LARGEST), "B": Secret("bb"), "C": Secret("never read")}
    with secret_fifos(values, tmp_path) as paths:
        assert [Path(paths[name]).stat().st_mode & 0o777 for name in "ABC"] == [0o600] * 3
        assert Path(paths["B"]).read_text() == "bb"
        assert len(Path(paths["A"]).read_text()) == LARGEST
        with Path(paths["C"]).open("rb"):  # who reads nothing keeps nobody waiting
            pass
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if "_write" in thread.name]

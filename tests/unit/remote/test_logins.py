"""Logins: docker's own, given to the registry alone, and never shown."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.support.https_site import make_rsa_certificate
from tests.support.relay import Relay, Reply, relaying
from tests.support.token_service import SERVICE, TokenService, token_service

from bot_bottle.errors import RegistryError, UsageError
from bot_bottle.host.redact import redacted
from bot_bottle.registry.registry import Registry
from bot_bottle.remote.docker_logins import find_login
from bot_bottle.remote.reference import Reference
from bot_bottle.remote.session import Session
from bot_bottle.remote.upload import push_bytes

PASSWORD = "canary-pass-5b1"  # noqa: S105


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "docker"
    folder.mkdir()
    return folder / "config.json"


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def write_helper(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    "text",
    ["a/b:1", "example.org", "example.org/", "example.org/A", "example.org/a:b:c", "example.org/a@sha256:1",
     "user@example.org/a", "example.org/../a", "http://example.org/a", "example.org/a:" + "x" * 129,
     "exa mple.org/a", ":5000/a"],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost/a:1", "http://localhost/v2/a"),
        ("127.0.0.1:5000/a/b", "http://127.0.0.1:5000/v2/a/b"),
        ("[::1]:5000/a", "http://[::1]:5000/v2/a"),
        ("example.org/a", "https://example.org/v2/a"),
        ("10.0.0.1:5000/a", "https://10.0.0.1:5000/v2/a"),
        ("localhost.example.org/a", "https://localhost.example.org/v2/a"),
        ("docker.io/a/b", "https://registry-1.docker.io/v2/a/b"),
    ],
)
def test_plain_http_is_for_the_loopback_alone(text: str, url: str) -> None:
    assert Reference.parse(text).url == url


def test_logins_are_found_as_docker_finds_them(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_login("example.org") is None
    absent = 'echo "credentials not found in native keychain"; exit 1'
    helper = f'read server; [ "$server" = example.org ] || {{ {absent}; }}'
    write_helper(
        tmp_path / "bin", "test", helper + """; echo '{"Username": "helped", "Secret": "from-helper"}'"""
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    auths = {
        "https://other.example.org/v1/": {"auth": basic("me", "pass-word")},
        "https://index.docker.io/v1/": {"auth": basic("hub", "pass-word")},
        "token.example.org": {"auth": "", "identitytoken": "identity-token"},
        "empty.example.org": {},
    }
    config.write_text(json.dumps({"auths": auths, "credHelpers": {"example.org": "test"}}))
    found = {
        host: login and (login.user, login.secret.reveal())
        for host in (
            "example.org",
            "other.example.org",
            "docker.io",
            "token.example.org",
            "empty.example.org",
        )
        for login in [find_login(host)]
    }
    assert found == {
        "example.org": ("helped", "from-helper"),
        "other.example.org": ("me", "pass-word"),
        "docker.io": ("hub", "pass-word"),
        "token.example.org": ("<token>", "identity-token"),
        "empty.example.org": None,
    }
    config.write_text(json.dumps({"auths": auths, "credsStore": "test"}))
    both = [find_login(host) for host in ("example.org", "other.example.org")]
    assert [login and login.user for login in both] == ["helped", "me"]


@pytest.mark.parametrize(
    "document",
    ['{"credsStore": "../evil"}', '{"credsStore": "absent"}', '{"credsStore": "leaks"}',
     '{"credsStore": "odd"}', '{"auths": {"example.org": {"auth": "%"}}}', "{"],
)  # fmt: skip
def test_a_login_that_cannot_be_read_is_an_error_without_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str
) -> None:
    write_helper(tmp_path / "bin", "leaks", f"echo {PASSWORD}; echo {PASSWORD} >&2; exit 3")
    write_helper(tmp_path / "bin", "odd", f"echo {PASSWORD}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    config.write_text(document)
    with pytest.raises(RegistryError) as refused:
        find_login("example.org")
    assert PASSWORD not in str(refused.value)


def test_a_redirect_to_another_host_gets_no_login(
    config: Path, reference: Reference, relay: Relay, registry: Registry
) -> None:
    config.write_text(json.dumps({"auths": {reference.host: {"auth": basic("me", PASSWORD)}}}))
    digest = push_bytes(Session(reference), b"content")
    with relaying(registry.port) as store:

        def answer(method: str, path: str, headers: Mapping[str, str]) -> Reply | None:
            if "authorization" not in headers:
                return 401, {"WWW-Authenticate": 'Basic realm="test"'}, b""
            if method == "GET" and "/blobs/" in path:
                return 307, {"Location": f"http://127.0.0.1:{store.port}{path}"}, b""
            return None

        relay.answer = answer
        with Session(reference).ask("GET", f"blobs/{digest}") as got:
            assert got.document() == b"content"
        assert relay.seen[-1][2]["authorization"] == f"Basic {basic('me', PASSWORD)}"
        assert [headers.get("authorization") for _, _, headers in store.seen] == [None]

        # nor does a challenge of that host get one
        store.answer = lambda *_: (401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
        with pytest.raises(RegistryError):
            Session(reference).ask("GET", f"blobs/{digest}")
        assert all("authorization" not in headers for _, _, headers in store.seen)


@pytest.mark.parametrize("place", ["http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_that_are_not_encrypted_are_refused(reference: Reference, relay: Relay, place: str) -> None:
    relay.answer = lambda *_: (307, {"Location": place}, b"")
    with pytest.raises(RegistryError, match="not encrypted"):
        Session(reference).ask("GET", "manifests/1")


def test_redirects_end(reference: Reference, relay: Relay) -> None:
    relay.answer = lambda _method, path, _headers: (307, {"Location": path}, b"")
    with pytest.raises(RegistryError, match="too often"):
        Session(reference).ask("GET", "manifests/1")
    assert len(relay.seen) < 10


def test_a_refusal_is_in_the_registrys_words_and_has_no_control_characters(
    reference: Reference, relay: Relay
) -> None:
    words = json.dumps({"errors": [{"code": "DENIED", "message": "quota\x1b[31m exceeded"}]}).encode()
    relay.answer = lambda *_: (403, {}, words)
    with pytest.raises(RegistryError, match="does not let you read") as refused:
        Session(reference).ask("GET", "manifests/1")
    assert refused.value.why == r"403: DENIED quota\x1b[31m exceeded"
    assert refused.value.next_step == f"docker login {reference.host}"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rsa_certificate(tmp_path_factory.mktemp("token") / "key.pem")


@pytest.fixture
def tokens(key: Path, relay: Relay) -> Iterator[TokenService]:
    """A token service that the relay sends clients to, unless they have a token of it."""
    with token_service(key) as service:

        def answer(_method: str, _path: str, headers: Mapping[str, str]) -> Reply | None:
            if headers.get("authorization", "").startswith("Bearer "):
                return None
            challenge = f'Bearer realm="{service.realm}",service="{SERVICE}"'
            return 401, {"WWW-Authenticate": challenge}, b""

        relay.answer = answer
        yield service


def test_a_token_is_asked_for_once_with_the_scope_that_is_needed(
    config: Path, reference: Reference, tokens: TokenService
) -> None:
    tokens.users["me"] = PASSWORD
    config.write_text(json.dumps({"auths": {reference.host: {"auth": basic("me", PASSWORD)}}}))
    session = Session(reference)
    for data in (b"one", b"two"):
        push_bytes(session, data)
    assert [each["scope"].rpartition(":")[2] for each in tokens.asked] == ["pull"]
    assert tokens.asked[0]["scope"] == f"repository:{reference.repository}:pull"


def test_an_identity_token_gets_an_access_token(
    config: Path, reference: Reference, tokens: TokenService
) -> None:
    tokens.refresh_tokens.append(PASSWORD)
    config.write_text(json.dumps({"auths": {reference.host: {"identitytoken": PASSWORD}}}))
    push_bytes(Session(reference), b"one")
    assert tokens.asked[0]["grant_type"] == "refresh_token"


def test_a_token_is_renewed_before_it_ends(config: Path, reference: Reference, tokens: TokenService) -> None:
    tokens.users["me"], tokens.stated = PASSWORD, 1
    config.write_text(json.dumps({"auths": {reference.host: {"auth": basic("me", PASSWORD)}}}))
    session = Session(reference)
    push_bytes(session, b"one")
    assert session._authorization is not None
    session._authorization = type(session._authorization)(session._authorization.value, 0.0)
    push_bytes(session, b"two")
    assert len(tokens.asked) == 2


@pytest.mark.parametrize("login", [None, basic("me", "wrong-one"), basic("nobody", PASSWORD)])
def test_a_wrong_login_is_refused_and_not_shown(
    config: Path, reference: Reference, tokens: TokenService, login: str | None
) -> None:
    tokens.users["me"] = PASSWORD
    config.write_text(json.dumps({"auths": {reference.host: {"auth": login}} if login else {}}))
    with pytest.raises(RegistryError) as refused:
        push_bytes(Session(reference), b"one")
    assert refused.value.next_step == f"docker login {reference.host}"
    assert PASSWORD not in redacted(str(refused.value))


@pytest.mark.parametrize(
    "challenge",
    ['Bearer realm="http://example.org/token"', 'Bearer realm="file:///etc/passwd"', "Bearer", "Negotiate",
     'Bearer realm="http://user:pass@127.0.0.1/t"', ""],
)  # fmt: skip
def test_a_challenge_that_leads_elsewhere_is_refused(
    config: Path, reference: Reference, relay: Relay, challenge: str
) -> None:
    config.write_text(json.dumps({"auths": {reference.host: {"auth": basic("me", PASSWORD)}}}))
    relay.answer = lambda *_: (401, {"WWW-Authenticate": challenge}, b"")
    with pytest.raises(RegistryError) as refused:
        Session(reference).ask("GET", "manifests/1")
    assert PASSWORD not in str(refused.value)
    assert len(relay.seen) == 1

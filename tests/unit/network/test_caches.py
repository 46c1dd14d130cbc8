"""Caches of packages: which files of registries they have, and who may add others."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_bottle.errors import SpecError
from bot_bottle.network.caches import cache_names, load_caches
from bot_bottle.network.policy import load_policy, parse_policy, save_policy
from bot_bottle.network.proxy.package_requests import is_plain_get, may_be_stored, wants_fresh
from bot_bottle.structs import replace

NAMES = ["crates", "debian", "go", "npm", "pypi"]
HASH = "0123456789abcdef" * 4
WHEEL = f"/packages/{HASH[:2]}/{HASH[2:4]}/{HASH[4:]}/a-1.0-py3-none-any.whl"


def found(name: str, target: str) -> list[str]:
    return [file.target for each in load_caches([name]) if (file := each.find(target)) is not None]


def test_there_is_a_cache_for_each_preset_of_packages() -> None:
    assert cache_names() == NAMES
    for name in NAMES:
        policy = parse_policy([name])
        for each in load_caches([name]):
            assert policy.decide(each.host, each.port).allowed
            assert policy.decide(each.host, each.source).allowed
            assert each.source == 443


@pytest.mark.parametrize(
    ("name", "target", "requested"),
    [
        ("npm", "/left-pad/-/left-pad-1.3.0.tgz", "/left-pad/-/left-pad-1.3.0.tgz"),
        ("npm", "/@types/node/-/node-20.0.0.tgz", "/@types/node/-/node-20.0.0.tgz"),
        ("npm", "/%40types/node/-/node-20.0.0.tgz", "/@types/node/-/node-20.0.0.tgz"),
        ("pypi", WHEEL, WHEEL),
        ("pypi", f"{WHEEL}.metadata", f"{WHEEL}.metadata"),
        ("crates", "/crates/serde/1.0.0/download", "/crates/serde/1.0.0/download"),
        ("crates", "/crates/a/a-1.0.0+b.crate", "/crates/a/a-1.0.0%2Bb.crate"),
        ("go", "/github.com/!a/b/@v/v1.2.3.zip", "/github.com/!a/b/@v/v1.2.3.zip"),
        ("go", "/a.org/b/@v/v2.0.0+incompatible.mod", "/a.org/b/@v/v2.0.0%2Bincompatible.mod"),
        ("go", "/a.org/b/@v/v0.0.0-20200101000000-0123456789ab.info", None),
        ("debian", "/debian/pool/main/g/g%2b%2b_12.deb", "/debian/pool/main/g/g%2B%2B_12.deb"),
        ("debian", "/debian/pool/main/a/a/a_1.0~b_all.deb", None),
    ],
)  # fmt: skip
def test_files_that_never_change_are_found_in_one_spelling(
    name: str, target: str, requested: str | None
) -> None:
    assert set(found(name, target)) == {requested or target}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("npm", "/left-pad"),
        ("npm", "/left-pad/1.3.0"),
        ("npm", "/-/v1/search"),
        ("npm", "/left-pad/-/left-pad-1.3.0.tgz?x=1"),
        ("npm", "/@types%2fnode/-/node-20.0.0.tgz"),  # servers differ in how they read it
        ("npm", "/a/../left-pad/-/left-pad-1.3.0.tgz"),
        ("npm", "/left-pad/-/%2e%2e/x.tgz"),
        ("pypi", "/simple/a/"),
        ("pypi", "/packages/source/a/a-1.0.tar.gz"),  # an old form, which redirects
        ("pypi", WHEEL.replace("0123", "012g")),
        ("crates", "/crates/serde"),
        ("go", "/a.org/b/@v/list"),
        ("go", "/a.org/b/@latest"),
        ("go", "/a.org/b/@v/master.info"),
        ("go", "/a.org/b/@v/v1.2.info"),  # a branch may have this name
        ("go", "/a.org/b/@v/v1.2.x.info"),
        ("debian", "/debian/dists/bookworm/InRelease"),
        ("debian", "/debian/pool/main/a/a/a_1.0.dsc"),
    ],
)
def test_what_changes_is_not_found(name: str, target: str) -> None:
    assert found(name, target) == []


def test_a_path_with_a_hash_promises_it() -> None:
    (file,) = [file for each in load_caches(["pypi"]) if (file := each.find(WHEEL)) is not None]
    assert (file.algorithm, file.digest) == ("blake2b", HASH)
    digest = file.new_hash()
    assert digest is not None
    assert len(digest.hexdigest()) == len(HASH)


def test_a_user_adds_caches_and_cannot_replace_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "bot-bottle" / "caches"
    folder.mkdir(parents=True)
    (folder / "mirror.txt").write_text("# ours\nmirror.example.org:8443 /files/(?P<sha256>[0-9a-f]{64})/.+\n")
    (folder / "npm.txt").write_text("evil.example.net:443 /.*\n")
    assert cache_names() == sorted([*NAMES, "mirror"])
    (each,) = load_caches(["mirror"])
    assert (each.host, each.port, each.source) == ("mirror.example.org", 8443, 8443)
    assert "evil.example.net" not in {each.host for each in load_caches(["npm"])}


@pytest.mark.parametrize(
    "line", ["example.org", "example.org:443 (", "example.org:443 /(?P<md5>.*)", "example.org:443 pool/.*"]
)
def test_an_invalid_cache_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "bot-bottle" / "caches"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text(f"{line}\n")
    with pytest.raises(SpecError) as caught:
        load_caches(["mine"])
    assert line in caught.value.why


def test_an_unknown_cache_is_refused() -> None:
    with pytest.raises(SpecError, match="no cache of packages 'cargo'") as caught:
        load_caches(["cargo"])
    assert "crates" in caught.value.next_step


def test_a_cache_allows_nothing_and_is_read_where_its_host_is_allowed(tmp_path: Path) -> None:
    policy = replace(parse_policy(["pypi", "api.example.org"]), caches=load_caches(["npm", "pypi", "debian"]))
    save_policy(policy, tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded == policy
    assert loaded.reads_requests
    (files,) = {each.host for each in load_caches(["pypi"])}
    assert loaded.reads(files, 443)
    assert not loaded.restricts(files, 443)
    for host in {each.host for each in load_caches(["npm"])}:
        assert not loaded.decide(host, 443).allowed
        assert not loaded.reads(host, 443)
    assert not loaded.reads("api.example.org", 443)
    only = replace(parse_policy(["debian"]), caches=load_caches(["debian"]))
    assert not only.reads_requests  # what apt requests without TLS needs no authority


GET = [(b"Host", b"example.org"), (b"Accept-Encoding", b"gzip")]


@pytest.mark.parametrize(
    ("method", "more", "expected"),
    [
        ("GET", [], True),
        ("GET", [(b"Content-Length", b"0")], True),
        ("GET", [(b"Cache-Control", b"no-cache")], True),
        ("HEAD", [], False),
        ("POST", [], False),
        ("get", [], False),
        *[
            ("GET", [(name, b"x")], False)
            for name in (
                b"Authorization", b"COOKIE", b"Range", b"If-Range", b"If-Match", b"If-None-Match",
                b"If-Modified-Since", b"If-Unmodified-Since", b"Transfer-Encoding", b"Upgrade", b"Expect",
                b"Content-Length",
            )
        ],
    ],
)  # fmt: skip
def test_a_plain_request_is_one_that_anybody_could_make(
    method: str, more: list[tuple[bytes, bytes]], expected: bool
) -> None:
    assert is_plain_get(method, [*GET, *more]) is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], False),
        ([(b"cache-control", b"max-age=0")], True),
        ([(b"cache-control", b"max-age=10")], False),
        ([(b"Cache-Control", b"x, No-Cache")], True),
        ([(b"Pragma", b"no-cache")], True),
        ([(b"cache-control", b"x"), (b"cache-control", b"no-store")], True),
    ],
)
def test_a_client_may_want_no_stored_response(fields: list[tuple[bytes, bytes]], expected: bool) -> None:
    assert wants_fresh(fields) is expected


@pytest.mark.parametrize(
    ("status", "more", "expected"),
    [
        (200, [], True),
        (200, [(b"Cache-Control", b"public, immutable, max-age=31557600")], True),
        (200, [(b"Vary", b"Accept-Encoding")], True),
        (200, [(b"Content-Encoding", b"identity")], True),
        (200, [(b"Set-Cookie", b"a=b"), (b"Cache-Control", b"public")], True),
        (200, [(b"Set-Cookie", b"a=b")], False),
        (200, [(b"Vary", b"Accept-Encoding, Cookie")], False),
        (200, [(b"Vary", b"*")], False),
        (200, [(b"Vary", b"Accept-Encoding"), (b"vary", b"Cookie")], False),
        (200, [(b"Content-Encoding", b"gzip")], False),
        (200, [(b"Cache-Control", b"no-store")], False),
        (200, [(b"Cache-Control", b'private="x-header"')], False),
        (200, [(b"Cache-Control", b"No-Cache")], False),
        (206, [], False),
        (203, [], False),
        (301, [], False),
        (404, [], False),
    ],
)
def test_a_stored_response_is_one_for_everybody(
    status: int, more: list[tuple[bytes, bytes]], expected: bool
) -> None:
    assert may_be_stored(status, [(b"Content-Length", b"10"), *more]) is expected


def test_a_response_without_a_length_is_not_stored() -> None:
    assert not may_be_stored(200, [(b"Transfer-Encoding", b"chunked")])

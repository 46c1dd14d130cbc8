"""Rules with methods and paths: what is allowed, and that no spelling of a path gets around them."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot_bottle.errors import SpecError
from bot_bottle.network.policy import parse_policy
from bot_bottle.network.rules import parse

POLICY = parse_policy(
    [
        "api.example.org:443 GET,HEAD /org/*",
        "api.example.org:443 POST /login",
        "read.example.org GET,HEAD",
        "path.example.org /a%20b",
        "*.example.net /public*",
        "free.example.net",
        "198.51.100.0/24 GET",
        "git.example.org POST /*/*/git-upload-pack",
        "git.example.org PUT /api/*/issues/*",
    ]
)


@pytest.mark.parametrize(
    ("entry", "form"),
    [
        ("API.example.org  get,HEAD   /org/*", "api.example.org GET,HEAD /org/*"),
        ("api.example.org:443 /a%20b/%C3%BC", "api.example.org:443 /a%20b/ü"),
        ("api.example.org /%6frg", "api.example.org /org"),
        ("*.example.org POST", "*.example.org POST"),
        ("[2001:db8::1]:80 GET /x*", "[2001:db8::1]:80 GET /x*"),
        ("api.example.org PROPFIND,M-SEARCH", "api.example.org M-SEARCH,PROPFIND"),
        ("api.example.org /*", "api.example.org"),
    ],
)
def test_an_entry_with_methods_and_path_is_parsed_to_one_form(entry: str, form: str) -> None:
    assert str(parse(entry)) == form
    assert parse(form) == parse(entry)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("api.example.org GET POST", "methods, and then a path"),
        ("api.example.org /a GET", "methods, and then a path"),
        ("api.example.org GET, /a", "not a method"),
        ("api.example.org G=T", "not a method"),
        ("api.example.org CONNECT", "CONNECT"),
        ("GET", "host is missing"),
        ("api.example.org /a/../b", "dot segments"),
        ("api.example.org /a/%2e%2e/b", "dot segments"),
        ("api.example.org /a/.*", "dot segments"),
        ("api.example.org /a//b", "differ"),
        ("api.example.org /a;b", "differ"),
        ("api.example.org /a%2fb", "differ"),
        ("api.example.org /a\\b", "differ"),
        ("api.example.org /a%", "encoded"),
        ("api.example.org /a%00", "control"),
        ("api.example.org /a%ff", "UTF-8"),
        ("api.example.org /a#b", "encoded"),
        ("api.example.org /a?b=*", "query"),
        ("api.example.org /a*b", "at the end"),
        ("api.example.org /a*/b", "at the end"),
        ("api.example.org /a/b**", "at the end"),
        ("api.example.org /*/b*", "whole segment too"),
        ("api.example.org /a%E2%80%AE", "printable"),
        ("api.example.org /" + "a" * 3000, "not a host"),
    ],
)
def test_an_entry_whose_methods_or_path_are_unclear_is_refused(entry: str, reason: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(entry)
    assert reason in refused.value.why


@pytest.mark.parametrize(
    ("host", "method", "path", "rule"),
    [
        ("api.example.org", "GET", "/org/", "api.example.org:443 GET,HEAD /org/*"),
        ("API.example.org.", "HEAD", "/org/a/b?x=/../y", "api.example.org:443 GET,HEAD /org/*"),
        ("api.example.org", "GET", "/org/a//b;c/%2f..x", "api.example.org:443 GET,HEAD /org/*"),
        ("api.example.org", "GET", "/%6f%72g/100%25", "api.example.org:443 GET,HEAD /org/*"),
        ("api.example.org", "POST", "/login?next=1", "api.example.org:443 POST /login"),
        ("read.example.org", "GET", "/../x", "read.example.org GET,HEAD"),
        ("read.example.org", "HEAD", "*", "read.example.org GET,HEAD"),
        ("path.example.org", "DELETE", "/a%20b", "path.example.org /a%20b"),
        ("a.b.example.net", "PUT", "/publications", "*.example.net /public*"),
        ("a.example.net", "PUT", "/public%2f..x", "*.example.net /public*"),
        ("free.example.net", "PUT", "/../x", "free.example.net"),
        ("198.51.100.7", "GET", "/", "198.51.100.0/24 GET"),
        (
            "git.example.org",
            "POST",
            "/org/r%C3%A9p.git/git-upload-pack",
            "git.example.org POST /*/*/git-upload-pack",
        ),
        ("git.example.org", "PUT", "/api/v1/issues/", "git.example.org PUT /api/*/issues/*"),
        ("git.example.org", "PUT", "/api/v1/issues/7/x;y", "git.example.org PUT /api/*/issues/*"),
    ],
)
def test_a_request_is_allowed_by_a_rule_that_is_named(host: str, method: str, path: str, rule: str) -> None:
    verdict = POLICY.decide_request(host, 443, method, path)
    assert verdict.allowed
    assert verdict.rule == rule
    assert POLICY.decide(host, 443).allowed


@pytest.mark.parametrize(
    ("host", "method", "path", "reason"),
    [
        ("api.example.org", "GET", "/org", "method or path"),
        ("api.example.org", "get", "/org/a", "method or path"),
        ("api.example.org", "POST", "/org/a", "method or path"),
        ("api.example.org", "POST", "/login/", "method or path"),
        ("api.example.org", "POST", "/login;x", "method or path"),
        ("api.example.org", "GET", "/organization", "method or path"),
        ("api.example.org", "GET", "//org/a", "method or path"),
        ("api.example.org", "GET", "/org%2fa", "method or path"),
        ("api.example.org", "GET", "/org%5Ca", "method or path"),
        ("api.example.org", "GET", "/ORG/a", "method or path"),
        ("api.example.org", "GET", "/org/../a", "dot segments"),
        ("api.example.org", "GET", "/org/..", "dot segments"),
        ("api.example.org", "GET", "/org/..;x/a", "dot segments"),
        ("api.example.org", "GET", "/org/%2e%2e/a", "dot segments"),
        ("api.example.org", "GET", "/org/.%252e/a", "dot segments"),
        ("api.example.org", "GET", "/org/x%2f..%2f..%2fa", "dot segments"),
        ("api.example.org", "GET", "/org/x\\..\\..\\a", "dot segments"),
        ("api.example.org", "GET", "/org/..%20/a", "dot segments"),
        ("api.example.org", "GET", "/org/\uff0e\uff0e/a", "dot segments"),
        ("api.example.org", "GET", "/org/%25252525252e%2e/a", "encoded more than"),
        ("api.example.org", "GET", "/org/%c0%ae%c0%ae/a", "UTF-8"),
        ("api.example.org", "GET", "/org/%u002e%u002e/a", "encoded"),
        ("api.example.org", "GET", "/org/a#/../b", "encoded"),
        ("api.example.org", "GET", "/org/a%00", "control"),
        ("api.example.org", "GET", "https://api.example.org/org/a", "begin with /"),
        ("api.example.org", "GET", "", "begin with /"),
        ("read.example.org", "POST", "/", "method or path"),
        ("git.example.org", "POST", "/org/repo/git-receive-pack", "method or path"),
        ("git.example.org", "POST", "/repo/git-upload-pack", "method or path"),
        ("git.example.org", "POST", "/a/b/c/git-upload-pack", "method or path"),
        ("git.example.org", "POST", "/a/b/git-upload-pack/", "method or path"),
        ("git.example.org", "POST", "/a//git-upload-pack", "method or path"),
        ("git.example.org", "POST", "/a/b%2fc/git-upload-pack", "method or path"),
        ("git.example.org", "POST", "/a/b;c/git-upload-pack", "method or path"),
        ("git.example.org", "PUT", "/api/v1/issues", "method or path"),
        ("git.example.org", "PUT", "/api/a%5cb/issues/1", "method or path"),
        ("other.example.org", "GET", "/", "not allowed"),
        ("a\nb", "GET", "/", "not a valid host"),
    ],
)
def test_another_request_is_refused_with_the_reason(host: str, method: str, path: str, reason: str) -> None:
    verdict = POLICY.decide_request(host, 443, method, path)
    assert not verdict.allowed
    assert reason in verdict.reason


def test_requests_are_read_only_where_some_of_them_are_refused() -> None:
    assert POLICY.reads("api.example.org", 443)
    assert not POLICY.reads("api.example.org", 80)  # not allowed at all
    assert POLICY.decide_request("api.example.org", 80, "GET", "/org/").reason == "its port is not allowed"
    assert POLICY.reads("read.example.org", 8080)
    assert POLICY.reads("a.example.net", 443)
    assert not POLICY.reads("free.example.net", 443)  # a rule for this host allows everything
    assert POLICY.reads("198.51.100.1", 443)
    assert not POLICY.reads("a\nb", 443)
    assert not parse_policy([], open_=True).reads("api.example.org", 443)


def nginx(path: str) -> str:
    """Return the path as a server reads that decodes once, merges slashes and resolves dot segments."""
    return resolved(re.sub("/+", "/", unquote(path)))


def tomcat(path: str) -> str:
    """Return the path as a server reads that first cuts parameters."""
    return resolved(unquote(re.sub(";[^/]*", "", path)))


def cutting_last(path: str) -> str:
    return resolved(re.sub(";[^/]*", "", unquote(path)))


def backslashes(path: str) -> str:
    return resolved(unquote(path).replace("\\", "/"))


def twice(path: str) -> str:
    """Return the path as a chain of two servers reads, each of which decodes."""
    return resolved(re.sub("/+", "/", unquote(resolved(unquote(path)))).replace("\\", "/"))


def compatible(path: str) -> str:
    return resolved(unicodedata.normalize("NFKC", unquote(path)))


def not_decoding_slashes(path: str) -> str:
    return unquote(resolved(re.sub("%2f", "%252F", path, flags=re.IGNORECASE)))


def resolved(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


SERVERS = [nginx, tomcat, cutting_last, backslashes, twice, compatible, not_decoding_slashes]
PIECES = st.sampled_from(
    [
        *("/", "//", "\\", ".", "..", ";", ";x=", "org", "admin", "a", "?", "%", "%25", "%20", "%c0%ae"),
        *("%2f", "%5C", "%2e", "%2E%2e", "%252e", "%252f", "%3b", "\uff0e", "\uff0f", "\u2025"),
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join))
@example("/..;/admin/..%3b/org/x")
@example("/x/..%2f..%2fadmin")
def test_no_server_takes_an_allowed_path_for_one_outside_the_prefix(rest: str) -> None:
    path = f"/org{rest}"
    if POLICY.decide_request("api.example.org", 443, "GET", path).allowed:
        for server in SERVERS:
            assert f"{server(path.partition('?')[0])}/".startswith("/org/"), server


@given(st.lists(PIECES, max_size=8).map("".join))
@example("a%2fb/c/git-upload-pack")
@example("\uff0f/org")
def test_no_server_takes_a_path_that_a_star_matches_for_another(rest: str) -> None:
    if POLICY.decide_request("git.example.org", 443, "POST", f"/{rest}/git-upload-pack").allowed:
        for server in SERVERS:
            assert re.fullmatch("/[^/]+/[^/]+/git-upload-pack", server(f"/{rest}/git-upload-pack")), server


@given(st.text(max_size=40))
def test_every_path_that_is_encoded_as_a_whole_is_allowed_below_the_prefix(rest: str) -> None:
    segment = "x" + re.sub(r"[\x00-\x1f\x7f]|%[0-9a-fA-F]{2}", "", rest.replace("/", "")) + "x"
    path = f"/org/{quote(segment.encode('utf-8', 'ignore'), safe='')}"
    if re.search(r"[\\\uff0f]", unicodedata.normalize("NFKC", segment)):
        return  # may be a slash for some servers
    assert POLICY.decide_request("api.example.org", 443, "GET", path).allowed


@given(st.text(max_size=60), st.text(max_size=10))
def test_whatever_is_requested_gets_a_verdict(path: str, method: str) -> None:
    verdict = POLICY.decide_request("api.example.org", 443, method, path)
    assert verdict.allowed or verdict.reason

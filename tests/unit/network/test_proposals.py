"""The entries that a run would have needed, from its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_bottle.network.audit_log import Log, Request, read
from bot_bottle.network.policy import NOTHING, Policy, parse_policy
from bot_bottle.network.proposals import MOST, Proposal, Proposals, propose
from bot_bottle.network.questions import ASKED


def refused(host: str, port: int = 443, reason: str = "it is not allowed", **more: str) -> Request:
    return Request(host, port, "refused", reason, **more)  # type: ignore[arg-type]


def proposed(folder: Path, *requests: Request | str, policy: Policy = NOTHING) -> Proposals:
    """Return what is proposed for these; a text is a rule that was added, one with `-` was removed."""
    with Log(folder / "log") as log:
        for each in requests:
            if isinstance(each, Request):
                log.write(each)
            elif each.startswith("-"):
                log.changed(each[1:], "removed")
            else:
                log.changed(each)
    return propose(read(folder / "log"), policy)


def entries(found: Proposals) -> list[str]:
    return [each.entry for each in found.entries]


def test_what_was_refused_is_proposed_once_for_each_host_and_port(tmp_path: Path) -> None:
    found = proposed(
        tmp_path,
        *[refused("b.example.org")] * 3,
        refused("B.example.org."),
        refused("b.example.org", 8443),
        refused("a.example.org"),
        refused("9.9.9.20", 80),
        refused("2620:fe::fe"),
        Request("c.example.org", 443, "allowed", rule="c.example.org"),
        Request("c.example.org", 443, "failed", "no answer", rule="c.example.org"),
        policy=parse_policy(["c.example.org"]),
    )
    assert entries(found) == [
        "9.9.9.20:80",
        "[2620:fe::fe]:443",
        "a.example.org:443",
        "b.example.org:443",
        "b.example.org:8443",
    ]
    assert not found.others


def test_with_the_entries_nothing_would_have_been_refused(tmp_path: Path) -> None:
    requests = [refused("a.example.org"), refused("b.example.org", 80), refused("2620:fe::fe")]
    requests += [refused("c.example.org", method="PUT", path=f"/{number}") for number in range(20)]
    before = parse_policy(["c.example.org:443 GET"])
    policy = parse_policy(entries(proposed(tmp_path, *requests, policy=before)))
    for each in requests:
        assert policy.decide_request(each.host, each.port, each.method or "GET", each.path or "/").allowed
        assert not policy.decide(each.host, 1).allowed


def test_a_name_whose_look_up_was_refused_has_no_port(tmp_path: Path) -> None:
    found = proposed(tmp_path, refused("a.example.org", 0), refused("pypi.org", 0))
    assert entries(found) == ["pypi", "a.example.org"]


@pytest.mark.parametrize("host", ["10.0.0.5", "169.254.169.254", "127.0.0.1", "::1", "fd00::1", "192.0.2.1"])
def test_a_private_address_is_never_proposed(tmp_path: Path, host: str) -> None:
    found = proposed(tmp_path, refused(host, 80))
    assert not found.entries
    assert "private address" in found.others[0][1]


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("host.bottle", "service"),
        ("bottle-probe.invalid", "no such host"),
        ("localhost", "loopback"),
        ("x.localhost", "loopback"),
        ("a b", "valid"),
        ("*.example.org\n", "valid"),
        ("", "valid"),
        ("***.example.org", "valid"),
        ("0x7f.1", "valid"),
        ("a" * 300, "valid"),
    ],
)
def test_what_no_entry_would_allow_is_listed_with_the_reason(tmp_path: Path, host: str, reason: str) -> None:
    found = proposed(tmp_path, refused(host))
    assert not found.entries
    assert len(found.others) == 1
    assert reason in found.others[0][1]


def test_what_was_allowed_and_refused_for_another_reason_is_listed_with_it(tmp_path: Path) -> None:
    reason = "it resolves to 169.254.169.254, a private address that is not allowed"
    found = proposed(
        tmp_path, refused("a.example.org", reason=reason), policy=parse_policy(["a.example.org"])
    )
    assert found == Proposals((), (("a.example.org:443", reason),))


def test_presets_are_proposed_where_they_cover_it(tmp_path: Path) -> None:
    found = proposed(
        tmp_path,
        refused("files.pythonhosted.org"),
        refused("pypi.org"),
        refused("registry.npmjs.org"),
        refused("a.example.org"),
        refused("pypi.org", 80),
    )
    assert found.entries == (
        Proposal("pypi", ("files.pythonhosted.org:443", "pypi.org:443")),
        Proposal("npm", ("registry.npmjs.org:443",)),
        Proposal("a.example.org:443", ("a.example.org:443",)),
        Proposal("pypi.org:80", ("pypi.org:80",)),
    )


def test_refused_requests_are_proposed_with_their_method_and_path(tmp_path: Path) -> None:
    policy = parse_policy(["a.example.org:443 GET", "b.example.org:443 GET"])
    found = proposed(
        tmp_path,
        refused("a.example.org", method="POST", path="/x"),
        refused("a.example.org", method="PUT", path="/x"),
        refused("a.example.org", method="POST", path="/y/z"),
        refused("b.example.org", method="GET", path="/", reason="another reason"),
        policy=policy,
    )
    assert entries(found) == ["a.example.org:443 POST,PUT /x", "a.example.org:443 POST /y/z"]
    assert found.others == (("b.example.org:443", "another reason"),)


@pytest.mark.parametrize("path", ["/***", "/a%00b", "/\x1b[2J", "/" + "a" * 1000])
def test_a_path_that_no_entry_can_have_is_left_out_of_it(tmp_path: Path, path: str) -> None:
    policy = parse_policy(["a.example.org:443 GET"])
    found = proposed(tmp_path, refused("a.example.org", method="POST", path=path), policy=policy)
    assert entries(found)[0].startswith("a.example.org:443 POST")
    parse_policy(entries(found))


def test_many_paths_of_a_host_are_one_entry(tmp_path: Path) -> None:
    requests = [refused("a.example.org", method="POST", path=f"/{number}") for number in range(20)]
    policy = parse_policy(["a.example.org:443 GET"])
    assert entries(proposed(tmp_path, *requests, policy=policy)) == ["a.example.org:443 POST"]


def test_a_host_that_is_not_allowed_is_proposed_for_every_request(tmp_path: Path) -> None:
    asked = Request("b.example.org", 80, "allowed", rule=ASKED, method="GET", path="/")
    found = proposed(tmp_path, refused("a.example.org", 80, method="GET", path="/x"), asked)
    assert entries(found) == ["a.example.org:80", "b.example.org:80"]


def test_what_was_allowed_during_the_run_is_proposed(tmp_path: Path) -> None:
    found = proposed(
        tmp_path,
        refused("files.example.net"),
        "*.example.net",
        "other.example.org:443",
        "-other.example.org:443",
        "not\na rule",
        Request("asked.example.org", 443, "allowed", rule=ASKED),
    )
    assert entries(found) == ["*.example.net", "asked.example.org:443"]


def test_of_many_hosts_some_are_proposed(tmp_path: Path) -> None:
    found = proposed(tmp_path, *(refused(f"{number}.example.net") for number in range(MOST + 5)))
    assert len(found.entries) == MOST
    assert len(found.others) == 5
    assert all(f"only {MOST} entries" in reason for _, reason in found.others)


def test_a_damaged_log_proposes_nothing() -> None:
    lines: list[dict[str, object]] = [{}, {"host": 1, "port": 443}, {"host": "a.example.org", "port": "443"}]
    lines += [{"host": "a.example.org", "port": 70_000}, {"host": "a.example.org", "port": -1}]
    assert not propose(lines, NOTHING).entries

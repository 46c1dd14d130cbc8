"""What a policy lets out: what is named, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_bottle.errors import SpecError
from bot_bottle.network.policy import MOST, NOTHING, load_policy, parse_policy, save_policy
from bot_bottle.structs import replace

POLICY = parse_policy(
    [
        "api.example.org",
        "*.example.net",
        "git.example.org:443",
        "10.1.0.0/16",
        "10.1.2.0/24:5432",
        "[2001:db8::7]:80",
    ]
)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("api.example.org", 1),
        ("API.EXAMPLE.ORG.", 443),
        ("a.example.net", 80),
        ("a.b.example.net", 80),
        ("git.example.org", 443),
        ("10.1.9.9", 22),
        ("10.1.2.3", 22),
        ("::ffff:10.1.2.3", 22),
        ("[2001:db8::7]", 80),
    ],
)
def test_what_is_named_is_let_out(host: str, port: int) -> None:
    assert POLICY.decide(host, port).allowed


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("example.org", 443, "not allowed"),
        ("xapi.example.org", 443, "not allowed"),
        ("api.example.org.evil.example", 443, "not allowed"),
        ("example.net", 80, "not allowed"),
        ("aexample.net", 80, "not allowed"),
        ("git.example.org", 22, "port"),
        ("10.2.0.1", 22, "not allowed"),
        ("2001:db8::7", 81, "port"),
        ("2001:db8::8", 80, "not allowed"),
        ("2130706433", 80, "not a valid host"),
        ("0x7f000001", 80, "not a valid host"),
        ("127.1", 80, "not a valid host"),
        ("fe80::1%lo", 80, "not allowed"),
        ("a\r\nb", 80, "not a valid host"),
        ("", 80, "not a valid host"),
    ],
)
def test_a_host_or_port_that_is_not_in_the_policy_is_refused_with_the_reason(
    host: str, port: int, reason: str
) -> None:
    verdict = POLICY.decide(host, port)
    assert not verdict.allowed
    assert reason in verdict.reason


NEIGHBOURHOOD = """
    127.0.0.1 ::1 0.0.0.0 10.9.9.9 172.16.0.1 192.168.1.1 100.64.0.1 169.254.169.254 fe80::1 fd00:ec2::254
    224.0.0.1 ff02::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2001:0:7f00:1:: 198.18.0.1 240.0.0.1
    255.255.255.255
"""


@pytest.mark.parametrize("address", NEIGHBOURHOOD.split())
def test_an_allowed_name_that_resolves_to_a_private_address_is_refused(address: str) -> None:
    assert not POLICY.decide_resolved(address, 443).allowed


def test_an_allowed_name_that_resolves_to_an_allowed_private_address_is_let_out() -> None:
    assert POLICY.decide_resolved("10.1.0.1", 443).allowed
    assert POLICY.decide_resolved("8.8.8.8", 443).allowed
    assert POLICY.decide_resolved("2606:4700::1", 443).allowed


@given(st.text(max_size=80), st.integers(0, 70000))
def test_without_rules_nothing_is_let_out_whatever_is_asked(host: str, port: int) -> None:
    assert not NOTHING.decide(host, port).allowed


def test_an_open_policy_allows_every_address_and_port() -> None:
    policy = parse_policy([], open_=True)
    assert policy.decide("anything.example", 1).allowed
    assert policy.decide_resolved("127.0.0.1", 1).allowed
    with pytest.raises(SpecError):
        parse_policy(["api.example.org"], open_=True)


def test_ten_thousand_hosts_are_one_look_each() -> None:
    policy = parse_policy(f"host-{number}.example.org" for number in range(10_000))
    assert policy.decide("host-9999.example.org", 443).allowed
    started = time.process_time()
    for _ in range(1000):
        assert not policy.decide("host-10000.example.org", 443).allowed
    assert time.process_time() - started < 5  # a look through all of them takes a hundred times that
    with pytest.raises(SpecError):
        parse_policy("x.example.org" for _ in range(MOST + 1))


def test_ranges_that_overlap_are_their_union() -> None:
    policy = parse_policy(["10.0.0.0/8:80", "10.1.0.0/16:443", "10.1.0.0/16"])
    assert policy.decide("10.1.2.3", 22).allowed
    assert policy.decide("10.2.2.3", 80).allowed
    assert not policy.decide("10.2.2.3", 443).allowed


def test_a_policy_with_a_proxy_needs_a_network_and_allows_nothing(tmp_path: Path) -> None:
    policy = replace(NOTHING, proxied=True)
    assert not policy.closed
    assert not policy.decide("api.example.org", 443).allowed
    save_policy(policy, tmp_path / "policy")
    assert load_policy(tmp_path / "policy") == policy
    assert policy.described() == NOTHING.described()


def test_spellings_of_a_name_are_one() -> None:
    policy = parse_policy(["bücher.example", "*.Straße.example"])
    for host in ("BÜCHER.example", "xn--bcher-kva.example.", "XN--BCHER-KVA.EXAMPLE", "bu\u0308cher.example"):
        assert policy.decide(host, 443).allowed, host
    assert policy.decide("a.xn--strae-oqa.example", 443).allowed
    for host in ("bucher.example", "b\u00fccher.example..", "xn--bcher-kva.example.org", "a.strasse.example"):
        assert not policy.decide(host, 443).allowed, host


LABELS = st.text("abcxyz019-", min_size=1, max_size=12).filter(lambda text: text.strip("-") == text)
NAMES = (
    st.lists(LABELS, min_size=2, max_size=5)
    .map(".".join)
    .filter(lambda name: name.rpartition(".")[2][0].isalpha())
)


@given(NAMES, st.booleans(), st.randoms())
def test_a_name_is_allowed_however_it_is_written(name: str, dot: bool, random: Any) -> None:
    policy = parse_policy([name, f"*.{name}"])
    other = "".join(random.choice((char.lower(), char.upper())) for char in name) + "." * dot
    assert policy.decide(other, 443).allowed
    assert policy.decide(f"a.b.{other}", 443).rule == f"*.{name.lower()}"
    assert not policy.decide(f"a{other}", 443).allowed
    assert not policy.decide(f"{name}.example.com", 443).allowed


def test_many_rules_of_every_kind_decide_as_fast_as_few() -> None:
    entries = [f"host-{number}.example.org:443" for number in range(3000)]
    entries += [f"*.d{number}.example.net GET /x{number}/*" for number in range(2000)]
    entries += [f"10.{number // 250}.{number % 250}.0/24:{number + 1}" for number in range(2000)]
    entries += [f"one.example.com GET /{number}/*" for number in range(1500)]
    entries += [f"one.example.com POST /*/{number}" for number in range(1500)]
    policy = parse_policy(entries)
    assert policy.decide("host-2999.example.org", 443).allowed
    assert policy.decide_request("one.example.com", 80, "GET", "/1499/x").allowed
    started = time.process_time()
    for _ in range(1000):
        assert not policy.decide("host-2999.example.org", 80).allowed
        assert not policy.decide("10.7.249.1", 9).allowed
        assert policy.decide_request("a.d1999.example.net", 443, "GET", "/x1999/y").allowed
        assert not policy.decide_request("one.example.com", 443, "POST", "/1499/x").allowed
    assert time.process_time() - started < 10  # one by one takes a hundred times that


def test_ports_of_this_machine_are_part_of_a_policy(tmp_path: Path) -> None:
    policy = parse_policy([], host_ports=[5432, 6379, 5432])
    assert policy.host_ports == (5432, 6379)
    assert not policy.closed
    assert not policy.decide("127.0.0.1", 5432).allowed  # it is a service of the proxy, not an address
    save_policy(policy, tmp_path / "policy")
    assert load_policy(tmp_path / "policy") == policy


@pytest.mark.parametrize("ports", [[0], [65536], [3128], range(1, 67), ["80"], [True]])
def test_invalid_ports_of_this_machine_are_refused(ports: Any) -> None:
    with pytest.raises(SpecError, match="of this machine"):
        parse_policy([], host_ports=ports)


def test_what_a_running_proxy_can_do_is_in_its_file(tmp_path: Path) -> None:
    policy = replace(parse_policy(["api.example.org GET"]), proxied=True, reading=True)
    save_policy(policy, tmp_path / "policy")
    assert load_policy(tmp_path / "policy") == policy

"""A policy as smolvm's options."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from itertools import pairwise

import pytest

from bot_bottle.errors import SpecError
from bot_bottle.network import smolvm_policy as microvm
from bot_bottle.network.policy import Policy, parse_policy
from bot_bottle.structs import replace


def values(argv: Sequence[str], option: str) -> list[str]:
    return [value for name, value in pairwise(argv) if name == option]


def test_nothing_allowed_is_no_network() -> None:
    assert microvm.network_argv(Policy()) == ()


def test_names_are_exact_and_patterns_are_patterns() -> None:
    argv = microvm.network_argv(parse_policy(["API.example.org.", "*.example.net"]))
    assert values(argv, "--allow-host-pattern") == ["api.example.org", "*.example.net"]
    assert "--allow-host" not in argv  # which would allow all names below as well


def test_addresses_alone_do_not_open_the_resolver() -> None:
    argv = microvm.network_argv(parse_policy(["9.9.9.9"]))
    assert values(argv, "--allow-host-pattern") == ["*.nothing.invalid"]


@pytest.mark.parametrize("named", [[], ["10.77.0.5"], ["10.0.0.0/8"], ["192.168.1.0/24", "172.16.0.0/12"]])
def test_an_allowed_name_leads_to_the_internet_or_to_what_is_named(named: list[str]) -> None:
    policy = parse_policy(["api.example.org", *named])
    denied = [ipaddress.ip_network(text) for text in values(microvm.network_argv(policy), "--deny-cidr")]
    for text in (
        *(
            "10.77.0.5",
            "10.77.0.6",
            "172.20.0.1",
            "192.168.1.1",
            "192.168.2.1",
            "127.0.0.1",
            "169.254.169.254",
        ),
        *("100.96.0.1", "0.0.0.1", "255.255.255.255", "224.0.0.1", "198.18.0.2", "9.9.9.9", "192.31.196.7"),
        *("::1", "fe80::1", "fd00::1", "ff02::1", "64:ff9b::a00:1", "2002:a00:1::1", "2606:4700::1"),
    ):
        address = ipaddress.ip_address(text)
        reached = not any(address in network for network in denied)
        assert reached == policy.decide_resolved(text, 443).allowed, text


def test_ports_methods_and_paths_are_the_proxys() -> None:
    entries = ["api.example.org:443", "api.example.org:80 GET /x", "*.example.net POST", "9.9.9.9:53"]
    argv = microvm.network_argv(parse_policy(entries))
    assert values(argv, "--allow-host-pattern") == ["api.example.org", "*.example.net"]
    assert values(argv, "--allow-cidr")[0] == "9.9.9.9/32"


@pytest.mark.parametrize("entry", ["127.0.0.1", "169.254.169.254", "2001:db8::/32", "fd00::5", "::1"])
def test_what_smolvm_has_no_way_to_is_left_to_the_proxy(entry: str) -> None:
    policy = parse_policy([entry])
    assert microvm.network_argv(policy)[2:] == microvm.network_argv(parse_policy(["a.example.org"]))[2:]


def test_a_rule_for_the_addresses_of_the_probes_is_refused() -> None:
    with pytest.raises(SpecError, match="own network probes") as caught:
        microvm.network_argv(parse_policy(["192.0.2.0/28"]))
    assert "docker" in caught.value.next_step


def test_a_policy_too_long_for_a_command_line_is_refused() -> None:
    microvm.network_argv(parse_policy(f"host{number}.example.org" for number in range(1500)))
    with pytest.raises(SpecError, match="microVM of smolvm: 10000"):
        microvm.network_argv(parse_policy(f"host{number}.example.org" for number in range(10_000)))


def test_many_rules_are_added_to_what_runs_by_several_command_lines() -> None:
    argv = microvm.widening_argv(parse_policy(f"host{number}.example.org" for number in range(10_000)))
    parts = list(microvm.batches(argv))
    assert tuple(word for part in parts for word in part) == argv
    assert all(part[0] == "--allow-host-pattern" and len(part) % 2 == 0 for part in parts)
    assert {sum(map(len, part)) <= 100_000 for part in parts} == {True}
    assert len(parts) == 4
    assert list(microvm.batches(())) == []


def test_the_probes_fit_the_policy() -> None:
    closed = {probe.name: probe for probe in microvm.probes(Policy(), 1234, "x.probe.bottle.invalid")}
    assert closed["routes"].accepted == {"unreachable"}
    assert "control" not in closed
    published = {probe.name: probe for probe in microvm.probes(Policy(), 1234, "x.invalid", published=True)}
    assert published["ipv4"].accepted == published["refused-host"].accepted - {"unreachable", "silent"}
    assert {"control", "routes"}.isdisjoint(published)
    some = {
        probe.name: probe
        for probe in microvm.probes(parse_policy(["*.example.org", "192.168.0.0/16"]), 1234, "x.invalid")
    }
    assert some["control"].accepted == {"open"}
    assert some["ipv4"].accepted == some["metadata"].accepted == {"refused"}
    assert "open" in some["lan"].accepted
    assert "allowed-host" not in some
    argv = microvm.network_argv(parse_policy(["9.9.9.9"]))
    assert {f"{some['control'].address}/32", f"{some['denied'].address}/32"} < set(
        values(argv, "--allow-cidr")
    )
    assert f"{some['denied'].address}/32" in values(argv, "--deny-cidr")
    assert microvm.probes(parse_policy([], open_=True), 1, "x.invalid") == []


def test_what_runs_is_widened_but_not_into_what_is_denied() -> None:
    argv = microvm.widening_argv(parse_policy(["api.example.org", "9.9.9.0/24"]))
    assert argv == ("--allow-host-pattern", "api.example.org", "--allow-cidr", "9.9.9.0/24")
    with pytest.raises(SpecError, match="until the bottle ends"):
        microvm.widening_argv(parse_policy(["10.1.2.3"]))


def test_what_is_no_longer_allowed_is_taken_from_what_runs() -> None:
    before = parse_policy(["a.example.org:443", "a.example.org:80", "b.example.org", "9.9.9.9"])
    after = parse_policy(["a.example.org:80"])
    assert microvm.narrowing_argv(before, after) == (
        *("--remove-allow-host", "b.example.org"),
        *("--remove-allow-cidr", "9.9.9.9/32"),
    )
    assert microvm.narrowing_argv(after, before) == ()


def test_ports_of_this_machine_are_the_proxys() -> None:
    policy = replace(parse_policy(["a.example.org"]), host_ports=(5432,))
    assert microvm.network_argv(policy) == microvm.network_argv(parse_policy(["a.example.org"]))
    found = {probe.name: probe for probe in microvm.probes(policy, 1234, "x.invalid")}
    assert found["host-service"].ask == "host.bottle:1234"
    assert found["host-service"].accepted == {"refused"}

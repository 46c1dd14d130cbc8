"""The two backends: each of its name and place, and what each refuses before anything is made."""

from __future__ import annotations

from typing import get_args

import pytest

from bot_bottle.backend import BACKENDS
from bot_bottle.backend.base import Backend, Machine, Place
from bot_bottle.backend.choice import backend_at, backend_for
from bot_bottle.backend.container.backend import ContainerBackend
from bot_bottle.backend.direct.backend import DirectBackend
from bot_bottle.backend.microvm.backend import MicrovmBackend
from bot_bottle.errors import SpecError
from bot_bottle.host.progress import Progress
from bot_bottle.network.policy import NOTHING, Policy, parse_policy
from bot_bottle.network.ports import Port
from bot_bottle.secrets.reference import Reference
from bot_bottle.vm.capabilities import probe_kvm

OPEN = Policy(open=True)
BOTH: list[Backend] = [
    ContainerBackend(),
    MicrovmBackend(),
    DirectBackend(),
]  # mypy holds both to the protocol


def machine(place: Place) -> Machine:
    return Machine("blue", place, "docker", "", "", published=False)


def test_each_name_and_each_place_has_a_backend() -> None:
    assert [type(backend_for(name, "kvm")) for name in BACKENDS] == [MicrovmBackend, ContainerBackend]
    without = DirectBackend if probe_kvm().state != "good" else MicrovmBackend
    assert type(backend_for("smolmachines", "auto")) is without
    found = {place: type(backend_at(place)) for place in get_args(Place)}
    assert found == {
        "container": ContainerBackend,
        "kvm": MicrovmBackend,
        "direct": DirectBackend,
        "nested": MicrovmBackend,
    }


def test_only_the_microvm_backend_takes_an_archive() -> None:
    with pytest.raises(SpecError, match="cannot run archives"):
        ContainerBackend().check(NOTHING, (), (), archive=True)
    MicrovmBackend().check(NOTHING, (), (), archive=True)


def test_a_secret_for_a_host_needs_a_proxy_that_puts_it_in() -> None:
    secret = Reference("KEY", "env", "MINE", ("api.example.org",))
    with pytest.raises(SpecError, match="need the proxy"):
        ContainerBackend().check(OPEN, (secret,), (), archive=False)
    ContainerBackend().check(parse_policy(["api.example.org"]), (secret,), (), archive=False)


def test_programs_in_a_container_find_the_proxy_where_there_is_one() -> None:
    backend = ContainerBackend()
    assert not backend.variables(NOTHING)
    assert not backend.variables(OPEN)
    assert "HTTPS_PROXY" in backend.variables(parse_policy(["api.example.org"]))
    assert not MicrovmBackend().variables(parse_policy(["api.example.org"]))


def test_an_emulated_host_takes_no_other_command() -> None:
    backend = MicrovmBackend()
    with pytest.raises(SpecError, match="cannot be checked again"):
        backend.probe(machine("nested"), NOTHING, Progress())
    for place in ("nested", "kvm"):
        backend.check_can_allow(machine(place))


def test_a_rule_is_removed_where_the_policy_is_read_again() -> None:
    ContainerBackend().check_can_disallow(machine("container"))
    DirectBackend().check_can_disallow(machine("direct"))
    MicrovmBackend().check_can_disallow(machine("kvm"))


def test_a_container_takes_no_memory_besides_its_own() -> None:
    assert ContainerBackend().host_overhead_mib("auto") == 0
    assert MicrovmBackend().host_overhead_mib("nested") > 0


def test_ports_of_this_machine_are_refused_where_they_cannot_be_reached() -> None:
    policy = parse_policy(["api.example.org"], host_ports=[5432])
    ContainerBackend().check(policy, (), (), archive=False)
    DirectBackend().check(policy, (), (), archive=False)
    MicrovmBackend().check(policy, (), (), archive=False)
    with pytest.raises(SpecError, match="port 5432 is published"):
        ContainerBackend().check(policy, (), (Port(0, 5432),), archive=False)

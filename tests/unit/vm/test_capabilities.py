"""A KVM that boots guests told from one that does not, and what runs where; tests/vm has a good one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bot_bottle.errors import AccelError
from bot_bottle.vm.accel import Accel, choose_accel
from bot_bottle.vm.capabilities import Kvm, KvmState, _hardware_virtualization, probe_kvm


def test_a_missing_device_is_absent(tmp_path: Path) -> None:
    assert probe_kvm(tmp_path / "kvm").state == "absent"


def test_a_device_without_permission_is_denied(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch(mode=0o000)
    user = os.geteuid()
    if user == 0:
        os.seteuid(12345)  # root may open anything
    try:
        found = probe_kvm(device)
    finally:
        os.seteuid(user)
    assert found.state == "denied"
    assert "usermod -aG kvm" in found.next_step


def test_a_device_that_is_not_kvm_is_unusable() -> None:
    found = probe_kvm(Path("/dev/null"))
    assert found.state == "unusable"
    assert "not a KVM" in found.reason


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ("flags\t\t: fpu vme svm sse2\n", True),
        ("flags\t\t: fpu vmx\n", True),
        ("flags\t\t: fpu svme nosvm\n", False),
        ("vendor_id\t: svm\n", False),
        ("", False),
    ],
)
def test_flags_of_the_processor_say_whether_it_can_virtualize(
    tmp_path: Path, flags: str, answer: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}power management:\n")
    assert _hardware_virtualization(tmp_path / "cpuinfo") is answer


@pytest.mark.parametrize("state", ["absent", "denied", "unusable", "good"])
def test_kvm_is_chosen_where_it_is_good(state: KvmState) -> None:
    kvm = Kvm(state, "the reason", "do this" if state != "good" else "")
    assert choose_accel("nested", kvm) == "nested"
    assert choose_accel("direct", kvm) == "direct"
    assert choose_accel("auto", kvm) == ("kvm" if state == "good" else "direct")
    if state == "good":
        assert choose_accel("kvm", kvm) == "kvm"
        return
    with pytest.raises(AccelError, match="KVM cannot be used here") as caught:
        choose_accel("kvm", kvm)
    assert (caught.value.why, caught.value.next_step) == ("the reason", "do this; or --accel direct")


def test_this_machine_has_one_choice() -> None:
    accel: Accel = "auto"
    kvm = probe_kvm()
    assert choose_accel(accel, kvm) == ("kvm" if kvm.state == "good" else "direct")
    assert bool(kvm.next_step) is (kvm.state != "good")

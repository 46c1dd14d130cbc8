"""QEMU's command line: what the emulated host may do, with networks and without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bot_bottle.vm.emulated.qemu import network_options, qemu_argv


def argv(
    port: int | None, *, network: bool = False, proxied: bool = False, published: Sequence[int] = ()
) -> list[str]:
    files = (Path("/kernel"), Path("/initramfs"), Path("/a,disk"))
    networks = network_options(port, network=network, proxied=proxied, published=published)
    return qemu_argv(*files, 512, Path("/exchange"), networks)


def test_without_a_door_there_is_no_network_and_no_program_may_be_started() -> None:
    words = argv(None)
    assert not [word for word in words if "net" in word]
    sandbox = words[words.index("-sandbox") + 1]
    for denial in ("obsolete", "elevateprivileges", "spawn", "resourcecontrol"):
        assert f"{denial}=deny" in sandbox


@pytest.mark.parametrize("port", [1, 65535])
def test_a_door_leads_to_one_port_and_nowhere_else(port: int) -> None:
    words = argv(port)
    [network] = [word for word in words if word.startswith("user,")]
    settings = network.split(",")
    assert "restrict=on" in settings
    [forward] = [
        setting for setting in settings if setting.startswith(("guestfwd", "hostfwd", "smb", "tftp"))
    ]
    assert forward.startswith(f"guestfwd=tcp:10.0.2.100:{port}-cmd:")
    assert forward.endswith(f" nc 127.0.0.1 {port}")
    assert words.count("-netdev") == 1


@pytest.mark.parametrize("proxied", [False, True])
def test_a_network_starts_no_program_and_forwards_nothing(proxied: bool) -> None:
    words = argv(None, network=not proxied, proxied=proxied)
    assert "spawn=deny" in words[words.index("-sandbox") + 1]
    [network] = [word for word in words if word.startswith("user,")]
    assert not [part for part in network.split(",") if "fwd" in part or part.startswith(("smb", "tftp"))]
    assert words.count("-netdev") == 1


@pytest.mark.parametrize("network", [False, True])
def test_published_ports_lead_in_from_loopback_and_not_out(network: bool) -> None:
    words = argv(None, network=network, published=[8080, 81])
    assert "spawn=deny" in words[words.index("-sandbox") + 1]
    *others, ports = [word.split(",") for word in words if word.startswith("user,")]
    assert [["restrict=on" in each, "fwd" in str(each)] for each in others] == [[False, False]] * network
    assert "restrict=on" in ports
    assert [each for each in ports if "fwd" in each] == [
        "hostfwd=tcp:127.0.0.1:8080-198.18.1.15:10000",
        "hostfwd=tcp:127.0.0.1:81-198.18.1.15:10001",
    ]


def test_a_comma_in_a_path_is_no_option() -> None:
    [drive] = [word for word in argv(None) if word.startswith("file=")]
    assert drive.startswith("file=/a,,disk,")

"""What a guest with an open network is connected by: which frames passt is given, and how it is started."""

from __future__ import annotations

import socket
import struct
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest

from bot_bottle.vm.direct.open_network import passt_argv, resolvers
from bot_bottle.vm.direct.passt.frames import GATEWAY, GATEWAY_6, GUEST, GUEST_6, RESOLVER, is_passed
from bot_bottle.vm.direct.passt.server import pass_on

TCP, UDP, ICMP, ICMP_6 = 6, 17, 1, 58
SYN, SYN_ACK, ACK, RST = 0x02, 0x12, 0x10, 0x04


def frame(kind: int, packet: bytes) -> bytes:
    return bytes.fromhex("525400123457525400123456") + struct.pack("!H", kind) + packet


def ipv4(
    address: str, protocol: int = TCP, flags: int = SYN, *, options: int = 0, fragment: int = 0
) -> bytes:
    """A frame with the header of a packet, its options in words of four bytes, and a header of TCP."""
    packet = struct.pack("!BBHHHBBH", 0x45 + options, 0, 40, 0, fragment, 64, protocol, 0) + GUEST.packed
    packet += ip_address(address).packed + b"\x01" * 4 * options
    return frame(0x0800, packet + struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, flags, 5, 6, 7))


def ipv6(address: str, protocol: int = TCP) -> bytes:
    packet = struct.pack("!IHBB", 6 << 28, 0, protocol, 64) + GUEST_6.packed + ip_address(address).packed
    return frame(0x86DD, packet)


@pytest.mark.parametrize(
    "passed",
    [
        frame(0x0806, bytes(28)),
        *map(ipv4, ("192.0.2.1", "10.0.2.2", "169.254.169.254", "126.255.255.255", "128.0.0.1", "1.0.0.1")),
        *(ipv4("192.0.2.1", protocol) for protocol in (UDP, ICMP)),
        ipv4(f"{RESOLVER}", UDP),
        *(ipv4(f"{GATEWAY}", flags=flags) for flags in (SYN_ACK, ACK, RST, RST | ACK)),
        ipv4(f"{GATEWAY}", flags=ACK, options=3),
        *map(ipv6, ("2001:db8::1", "64:ff9b::7f00:1", "fd00::1", "fd62:6f74:746c:6502::1")),
        *(ipv6(address, ICMP_6) for address in ("ff02::1:ff00:1", "fe80::1", f"{GATEWAY_6}")),
    ],
    ids=bytes.hex,
)
def test_what_leads_elsewhere_is_passed_on(passed: bytes) -> None:
    assert is_passed(passed)


@pytest.mark.parametrize(
    "dropped",
    [
        *map(ipv4, ("127.0.0.1", "127.255.255.255", "0.0.0.0", "0.1.2.3")),  # noqa: S104 - nobody listens
        *(ipv4("127.0.0.53", protocol) for protocol in (UDP, ICMP)),
        *map(ipv4, ("224.0.0.251", "239.255.255.250", "255.255.255.255")),
        ipv4(f"{GATEWAY}"),
        ipv4(f"{GATEWAY}", UDP, ACK),
        ipv4(f"{GATEWAY}", flags=SYN | 0xC8),
        ipv4(f"{GATEWAY}", options=3),
        ipv4(f"{GATEWAY}", flags=ACK, fragment=0x2000),
        ipv4(f"{GATEWAY}", flags=ACK, fragment=1),
        ipv4(f"{GATEWAY}", flags=ACK)[: 14 + 20 + 13],
        ipv4("198.51.100.255"),
        ipv4("192.0.2.1")[: 14 + 19],
        *map(ipv6, ("::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1")),
        ipv6("::1", ICMP_6),
        *map(ipv6, ("fe80::1", "febf::1", "ff02::1", f"{GATEWAY_6}")),
        ipv6("2001:db8::1")[: 14 + 39],
        frame(0x8100, struct.pack("!HH", 0, 0x0800) + ipv4("127.0.0.1")[14:]),
        frame(0x88A8, bytes(60)),
        b"",
    ],
    ids=lambda each: each.hex() or "nothing",
)
def test_what_leads_to_this_machines_loopback_or_to_many_is_not(dropped: bytes) -> None:
    assert not is_passed(dropped)


def sent(*frames: bytes) -> bytes:
    return b"".join(struct.pack("!I", len(each)) + each for each in frames)


def passed_on(data: bytes, size: int) -> tuple[bool, bytes]:
    """Send data in pieces of a size through the filter: whether QEMU has ended, and what passt is sent."""
    (qemu, into), (out, passt) = socket.socketpair(), socket.socketpair()
    ended: list[bool] = []
    got = bytearray()

    def read() -> None:
        while more := passt.recv(1 << 16):
            got.extend(more)

    def work() -> None:
        ended.append(pass_on(into, out))
        into.close()
        out.close()

    workers = [threading.Thread(target=each, daemon=True) for each in (work, read)]
    for each in workers:
        each.start()
    for at in range(0, len(data), size):
        qemu.sendall(data[at : at + size])
    qemu.close()
    for each in workers:
        each.join(20)
    passt.close()
    return ended[0], bytes(got)


@pytest.mark.parametrize("size", [1, 3, 50, 1 << 20])
def test_frames_are_filtered_however_they_come(size: int) -> None:
    good = [ipv4("192.0.2.1") + bytes(length) for length in (0, 1, 20_000)]
    bad = [ipv4("127.0.0.1"), frame(0x8100, ipv4("192.0.2.1")), ipv6("::1")]
    mixed = [good[0], bad[0], good[1], bad[1], bad[2], good[2]]
    assert passed_on(sent(*mixed), size) == (True, sent(*good))


@pytest.mark.parametrize("length", [0, 13, 65_536, 0xFFFFFFFF])
def test_what_is_no_frame_ends_the_network(length: int) -> None:
    good = sent(ipv4("192.0.2.1"))
    assert passed_on(good + struct.pack("!I", length), 1 << 20) == (False, good)


def test_the_network_has_ended_where_passt_has() -> None:
    (qemu, into), (out, passt) = socket.socketpair(), socket.socketpair()
    with qemu, into, out:
        passt.close()
        qemu.sendall(sent(ipv4("192.0.2.1")))
        assert not pass_on(into, out)


def test_passt_maps_no_address_to_the_loopback_and_forwards_published_ports_alone() -> None:
    line = " ".join(passt_argv(Path("/usr/bin/passt"), {}, ipv6=False))
    assert line.startswith("/usr/bin/passt --foreground ")
    assert line.endswith(" --ipv4-only --tcp-ports none --udp-ports none")
    assert " --no-map-gw " in line
    line = " ".join(passt_argv(Path("/usr/bin/passt"), {8080: 80, 9000: 90}, ipv6=True))
    assert line.endswith(" --tcp-ports 127.0.0.1/8080:80 --tcp-ports 127.0.0.1/9000:90 --udp-ports none")
    assert f" --address {GUEST_6} --gateway {GATEWAY_6} " in line


@pytest.mark.parametrize(
    ("ours", "ipv6", "guests"),
    [
        ("nameserver 192.0.2.53\n", False, "nameserver 192.0.2.53\n"),
        ("nameserver 127.0.0.53\noptions edns0\n", False, f"nameserver {RESOLVER}\noptions edns0\n"),
        (
            "# made by some program\nsearch a.example.org b.example.org\nnameserver 127.0.0.1\n"
            "nameserver 192.0.2.53 \nnameserver 192.0.2.54\n",
            False,
            "nameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch a.example.org b.example.org\n",
        ),
        ("nameserver ::1\nnameserver 2001:db8::53\n", True, "nameserver 2001:db8::53\n"),
        ("nameserver 2001:db8::53\n", False, f"nameserver {RESOLVER}\n"),
        ("nameserver fe80::1%eth0\nnameserver 0.0.0.0\n", True, f"nameserver {RESOLVER}\n"),
        (
            "nameserver\nnameserver x\ndomain example.org\n",
            True,
            f"nameserver {RESOLVER}\ndomain example.org\n",
        ),
        ("", True, f"nameserver {RESOLVER}\n"),
    ],
)
def test_a_guest_asks_this_machines_resolvers(ours: str, ipv6: bool, guests: str) -> None:
    assert resolvers(ours, ipv6=ipv6) == guests

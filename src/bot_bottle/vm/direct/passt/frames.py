"""Which of a guest's Ethernet frames passt is given.

passt connects to whatever address is in a frame, from this machine: versions before 2024 also to the
loopback, where services are that trust every program of this machine. A guest's root, or who has taken over
QEMU, can send any frame. So the filter knows the addresses by which a connection would end there, and passes
on nothing but IP and what finds an address's neighbour.

Imports nothing of the project, since a process uses it that starts in a few milliseconds.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# A network for documentation (RFC 5737), and a private one (RFC 4193): a bottle has nobody to reach there.
# From the latter, programs prefer IPv4 where a host has both (RFC 6724, 2.1).
NETWORK, NETWORK_6 = IPv4Network("198.51.100.0/24"), IPv6Network("fd62:6f74:746c:6501::/64")
GATEWAY, GUEST, RESOLVER = (IPv4Address("198.51.100.0") + number for number in (1, 2, 3))
GATEWAY_6, GUEST_6 = (IPv6Address("fd62:6f74:746c:6501::") + number for number in (1, 2))

LONGEST = 65_535  # bytes of a frame that passt takes
HEADER = 14  # bytes, of Ethernet: addresses and the kind
ARP, _IPV4, _IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
_TCP, _ICMP_6 = 6, 58
_OWN, _OWN_6 = NETWORK.network_address.packed[:3], NETWORK_6.network_address.packed[:8]
_RESOLVER, _GATEWAY = RESOLVER.packed, GATEWAY.packed
_MULTICAST, _MULTICAST_6 = 224, 255


def is_passed(frame: bytes) -> bool:
    """Return whether passt is given a frame."""
    kind, packet = frame[12:HEADER], frame[HEADER:]
    if kind == _IPV4:
        return len(packet) >= 20 and _is_passed(packet)
    if kind == _IPV6:
        return len(packet) >= 40 and _is_passed_6(packet[24:40], packet[6])
    return kind == ARP


def _is_passed(packet: bytes) -> bool:
    """Return whether an IPv4 packet is neither for this machine's loopback nor for more than one machine.

    A connection to 0.0.0.0 goes to the loopback (ip(7)). Of the guest's own network passt is the resolver,
    and the gateway is the client of a published port.
    """
    address = packet[16:20]
    if address[:3] == _OWN:
        return address == _RESOLVER or (address == _GATEWAY and _is_answer(packet))
    return address[0] not in (0, 127) and address[0] < _MULTICAST


def _is_answer(packet: bytes) -> bool:
    """Return whether a packet is of a TCP connection that it does not begin (RFC 9293, 3.1 and 3.5)."""
    flags = (packet[0] & 15) * 4 + 13
    whole = packet[6] & 0x3F == 0 and packet[7] == 0  # no fragment (RFC 791, 3.1)
    return packet[9] == _TCP and whole and len(packet) > flags and packet[flags] & 0x12 != 0x02


def _is_passed_6(address: bytes, protocol: int) -> bool:
    """Return whether an IPv6 packet is neither for this machine's loopback nor for more than one machine.

    Addresses that begin with 0::/16 are the loopback, no address, and IPv4 addresses in another form (RFC
    4291, 2.5). Neighbours are found at multicast and link-local ones.
    """
    if address[:2] == b"\0\0":
        return False
    of_link = address[0] == _MULTICAST_6 or (address[0] == 0xFE and address[1] & 0xC0 == 0x80)
    return protocol == _ICMP_6 or not (of_link or address[:8] == _OWN_6)

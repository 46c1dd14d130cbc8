"""One entry of `egress.allow`: a host, a pattern of hosts, an address or a range, with or without a port.

Every entry is normalized first, so that two spellings of a name are equal: lower case, no final dot,
non-ASCII as punycode (RFC 5891), IPv4-mapped IPv6 addresses as IPv4. After the host an entry may have the
methods and the path of the requests that it allows: `api.example.org:443 GET,HEAD /public/*`.
"""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

from bot_bottle.errors import SpecError
from bot_bottle.host.text import is_printable, printable
from bot_bottle.network.request_paths import parse_pattern

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# the widest prefixes that are accepted: wider is most of the internet, for which there is `open`
_WIDEST = {4: 8, 6: 16}
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_BRACKETED = re.compile(r"\[([^\]]*)\](?::(.*))?")
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")  # as registered (RFC 9110, section 16.1)
_COMMON_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"})
_LONGEST = 2000  # characters of an entry
_LONGEST_HOST = 300  # characters; a name has 253


class Rule(Struct, frozen=True):
    """What one entry allows. `target` is a name, `.example.org` for all names below it, or a range.

    `port` is None for all ports, no `methods` are all methods, and "" is any path. With `*` at its end a path
    is a prefix.
    """

    target: str | Network
    port: int | None = None
    methods: frozenset[str] = frozenset()
    path: str = ""

    @property
    def restricts_requests(self) -> bool:
        """Whether it allows some requests only, so that they have to be read."""
        return bool(self.methods or self.path)

    def __str__(self) -> str:
        if isinstance(self.target, str):
            text = f"*{self.target}" if self.target.startswith(".") else self.target
        else:
            single = self.target.prefixlen == self.target.max_prefixlen
            text = str(self.target.network_address if single else self.target)
            text = f"[{text}]" if self.target.version == 6 and self.port else text
        text = f"{text}:{self.port}" if self.port else text
        requests = (",".join(sorted(self.methods)), self.path.replace(" ", "%20"))
        return " ".join((text, *filter(None, requests)))


def parse(text: str) -> Rule:
    """Parse an entry. Raises SpecError with the reason and the correct form."""
    if len(text) > _LONGEST or not is_printable(text):
        raise _refused(text, "not a host, address or range")
    entry, *requests = text.split() or [""]
    if "://" in entry:
        raise _refused(text, "this is a URL", "write only the host: api.example.org")
    if "%" in entry:
        raise _refused(text, "an address with a zone differs from machine to machine")
    if entry in _COMMON_METHODS:
        raise _refused(text, "a host is missing", f"write it in one entry: 'api.example.org {entry}'")
    methods, path = _requests(text, requests)
    host, port = _split(entry)
    if len(host) > _LONGEST_HOST:
        raise _refused(text, "not a host, address or range")
    number = None if port is None else _port(text, port)
    if "/" in host or ":" in host or _looks_like_ipv4(host):
        return Rule(_network(text, host), number, methods, path)
    return Rule(_name(text, host), number, methods, path)


def _requests(text: str, words: list[str]) -> tuple[frozenset[str], str]:
    """Return the methods and the path that follow the host in an entry."""
    example = "write it as 'api.example.org GET,HEAD /public/*'"
    path = words.pop() if words and words[-1].startswith("/") else ""
    if len(words) > 1:
        raise _refused(text, "after the host come methods, and then a path", example)
    methods = frozenset(words[0].upper().split(",")) if words else frozenset()
    for method in sorted(methods):
        if not _METHOD.fullmatch(method):
            raise _refused(text, f"{method[:20]!r} is not a method of HTTP", example)
        if method == "CONNECT":
            raise _refused(text, "CONNECT is what asks a proxy for a connection", example)
    try:
        pattern = parse_pattern(path) if path else ""
    except ValueError as error:
        raise _refused(text, str(error), example) from error
    return methods, "" if pattern == "/*" else pattern


def name_of(host: str) -> str:
    """Return a host name in the form in which names are compared. Raises SpecError."""
    name = host.removesuffix(".")
    try:
        ascii_name = name.lower() if name.isascii() and "xn--" not in name.lower() else _punycode(name)
        for label in ascii_name.split("."):
            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label[:70]!r} is not a valid label of a host name")
    except ValueError as error:
        raise SpecError(f"invalid host name: {host[:80]!r}", why=str(error)) from error
    if len(ascii_name) > 253:
        raise SpecError(f"invalid host name: {host[:80]!r}", why="a name has 253 characters at most")
    return ascii_name


def _punycode(name: str) -> str:
    import idna  # its tables take long to import

    encoded = idna.encode(name.lower(), uts46=True).decode("ascii")
    idna.decode(encoded)
    return encoded


def address_of(host: str) -> Address | None:
    """Return the address that a text is, or None for a name. Raises ValueError for an invalid address."""
    if ":" in host or _looks_like_ipv4(host):
        return plain(ipaddress.ip_address(host.strip("[]")))
    return None


def plain(address: Address) -> Address:
    """Return an IPv4-mapped IPv6 address as IPv4, and others unchanged."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _split(entry: str) -> tuple[str, str | None]:
    if found := _BRACKETED.fullmatch(entry):
        return found[1], found[2]
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, None


def _port(text: str, port: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise _refused(text, f"{port[:20]!r} is not a valid port", "write it as api.example.org:443")
    return int(port)


def _looks_like_ipv4(host: str) -> bool:
    """Return whether a text is a form that resolvers accept as IPv4 (0x7f.1, 2130706433)."""
    last = host.removesuffix(".").rpartition(".")[2]
    return bool(re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", last))


def _network(text: str, host: str) -> Network:
    try:
        network = ipaddress.ip_network(host, strict=False)
        given = ipaddress.ip_interface(host).ip
    except ValueError as error:
        raise _refused(text, str(error), "write it as 192.0.2.7 or 192.0.2.0/24") from error
    if "/" in host and given != network.network_address:
        raise _refused(text, "the address has host bits set", f"write {network}, or {given} alone")
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped:
        if network.prefixlen < 96:
            raise _refused(text, "it contains all of IPv4")
        address = network.network_address.ipv4_mapped
        network = ipaddress.ip_network((address, network.prefixlen - 96))
    if network.prefixlen < _WIDEST[network.version]:
        raise _refused(
            text,
            f"it is wider than /{_WIDEST[network.version]}",
            "allow what is needed; open = true allows everything",
        )
    return network


def _name(text: str, host: str) -> str:
    start, name = ("", host)
    if host.startswith("*"):
        start, name = ".", host.removeprefix("*.")
        if name in ("", ".", "*") or not host.startswith("*."):
            raise _refused(text, "a domain is missing", "write *.example.org, or open = true for everything")
        if "." not in name.removesuffix("."):
            raise _refused(text, "it is all of a top-level domain", "write *.example.org")
    if "*" in name:
        raise _refused(text, "`*` is only allowed as the first label", "write *.example.org")
    try:
        return start + name_of(name)
    except SpecError as error:
        raise _refused(text, error.why) from error


def _refused(text: str, why: str, next_step: str = "") -> SpecError:
    return SpecError(f"egress cannot allow '{printable(text, limit=80)}'", why=why, next_step=next_step)

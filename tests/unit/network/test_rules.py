"""Entries of `egress.allow`: each is read rightly, or refused with the reason."""

from __future__ import annotations

import pytest

from bot_bottle.errors import SpecError
from bot_bottle.network.rules import parse


@pytest.mark.parametrize(
    ("entry", "form"),
    [
        ("api.example.org", "api.example.org"),
        ("API.Example.ORG.", "api.example.org"),
        ("*.example.org", "*.example.org"),
        ("*.Example.org.", "*.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("BÜCHER.example:443", "xn--bcher-kva.example:443"),
        ("localhost", "localhost"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("192.0.2.0/24:5432", "192.0.2.0/24:5432"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
    ],
)
def test_an_entry_has_one_form(entry: str, form: str) -> None:
    assert str(parse(entry)) == form


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("*", "names no domain"),
        ("*.", "names no domain"),
        ("*.*", "names no domain"),
        ("*.com", "top-level"),
        ("*.com.", "top-level"),
        ("*example.org", "names no domain"),
        ("api.*.example.org", "star"),
        ("fe80::1%eth0", "zone"),
        ("[fe80::1%eth0]:80", "zone"),
        ("https://api.example.org", "URL"),
        ("0.0.0.0/0", "wider"),
        ("0.0.0.0/1", "wider"),
        ("::/0", "wider"),
        ("::ffff:0.0.0.0/90", "bits beyond"),
        ("::ffff:0:0/96", "wider"),
        ("10.0.0.1/8", "bits beyond"),
        ("2130706433", "IPv4"),
        ("0x7f.1", "IPv4"),
        ("0177.0.0.1", "IPv4"),
        ("127.1", "IPv4"),
        ("api.example.org:0", "port"),
        ("api.example.org:65536", "port"),
        ("api.example.org:https", "port"),
        ("xn--zz--.example", "A-label"),
        ("", "part of a host's name"),
        ("a..example", "part of a host's name"),
        ("a b.example", "part of a host's name"),
        ("-a.example", "part of a host's name"),
        ("a\n.example", "no host"),
        (f"{'a' * 64}.example", "part of a host's name"),
        (".".join(["a" * 49] * 6), "253"),
        ("a" * 5000, "no host"),
    ],
)
def test_what_means_too_much_or_nothing_is_refused(entry: str, reason: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(entry)
    assert reason in refused.value.why
    assert "\n" not in refused.value.message

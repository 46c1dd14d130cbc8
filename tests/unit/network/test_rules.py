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
def test_every_spelling_of_an_entry_is_parsed_to_one_form(entry: str, form: str) -> None:
    assert str(parse(entry)) == form


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("*", "domain is missing"),
        ("*.", "domain is missing"),
        ("*.*", "domain is missing"),
        ("*.com", "top-level"),
        ("*.com.", "top-level"),
        ("*example.org", "domain is missing"),
        ("api.*.example.org", "first label"),
        ("fe80::1%eth0", "zone"),
        ("[fe80::1%eth0]:80", "zone"),
        ("https://api.example.org", "URL"),
        ("0.0.0.0/0", "wider"),
        ("0.0.0.0/1", "wider"),
        ("::/0", "wider"),
        ("::ffff:0.0.0.0/90", "host bits"),
        ("::ffff:0:0/96", "wider"),
        ("10.0.0.1/8", "host bits"),
        ("2130706433", "IPv4"),
        ("0x7f.1", "IPv4"),
        ("0177.0.0.1", "IPv4"),
        ("127.1", "IPv4"),
        ("api.example.org:0", "port"),
        ("api.example.org:65536", "port"),
        ("api.example.org:https", "port"),
        ("xn--zz--.example", "A-label"),
        ("", "label of a host name"),
        ("a..example", "label of a host name"),
        ("a b.example", "not a method"),
        ("a_b!.example", "label of a host name"),
        ("-a.example", "label of a host name"),
        ("a\n.example", "not a host"),
        (f"{'a' * 64}.example", "label of a host name"),
        (".".join(["a" * 49] * 6), "253"),
        ("a" * 5000, "not a host"),
    ],
)
def test_an_entry_that_is_too_wide_or_invalid_is_refused_with_the_reason(entry: str, reason: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(entry)
    assert reason in refused.value.why
    assert "\n" not in refused.value.message

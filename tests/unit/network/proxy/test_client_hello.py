"""The parser of ClientHellos, with real ones of OpenSSL, with those made by hand, and with garbage."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.hellos import (
    ALPN,
    ECH,
    SERVER_NAME,
    extension,
    hello,
    message,
    records,
    server_name,
    vector,
)

from bot_bottle.network.proxy.client_hello import LARGEST, is_tls, parse_client_hello


def of_openssl(name: str | None, protocols: list[str]) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    if protocols:
        context.set_alpn_protocols(protocols)
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def test_what_openssl_sends_is_read() -> None:
    data = of_openssl("api.example.org", ["h2", "http/1.1"])
    assert is_tls(data)
    found = parse_client_hello(data)
    assert found is not None
    assert (found.server_name, found.protocols, found.encrypted) == (
        "api.example.org",
        (b"h2", b"http/1.1"),
        False,
    )
    bare = parse_client_hello(of_openssl(None, []))
    assert bare is not None
    assert (bare.server_name, bare.protocols) == ("", ())


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_hello_in_many_records_is_read_when_it_is_complete(size: int) -> None:
    data = hello("api.example.org", extension(ECH, b"\0" * 200), size=size)
    for end in range(len(data)):
        assert parse_client_hello(data[:end]) is None
    found = parse_client_hello(data + b"\x14\x03\x03\0\x01\x01")
    assert found is not None
    assert found.encrypted
    assert found.server_name == "api.example.org"


NAME = extension(SERVER_NAME, server_name("a.example"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (hello("a.example", NAME), "twice"),
        (records(message(extension(SERVER_NAME, vector(2, (b"\0" + vector(2, b"a")) * 2)))), "more than one"),
        (records(message(extension(SERVER_NAME, vector(2, b"\1" + vector(2, b"a"))))), "not a host name"),
        (hello("a\0.example"), "not a host name"),
        (hello("a .example"), "not a host name"),
        (hello(""), "not a host name"),
        (records(message(extension(SERVER_NAME, server_name("a") + b"x"))), "list of server names"),
        (records(message(extension(ALPN, vector(2, vector(1, b""))))), "list of protocols"),
        (records(message(NAME) + b"\x0b"), "another message follows"),
        (records(b"\x02" + message(NAME)[1:]), "another message than ClientHello"),
        (b"\x16\x03\x01\0\0", "invalid length"),
        (b"\x16\x03\x01\x40\x01", "invalid length"),
        (hello("a.example", size=9)[:14] + b"\x17\x03\x03\0\x01x", "another record"),
        (records(b"\x01" + (LARGEST + 1).to_bytes(3, "big")), "too large"),
        (records(b"\x01" + vector(3, bytes(20))), "cut off"),
    ],
)
def test_what_is_not_as_specified_is_an_error(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_client_hello(data)


@given(st.binary(max_size=300))
def test_garbage_is_an_error_or_not_complete(data: bytes) -> None:
    for each in (
        data,
        b"\x16\x03\x01" + vector(2, data),
        records(b"\x01" + vector(3, data)) if data else b"",
    ):
        with suppress(ValueError):
            parse_client_hello(each)


@given(st.data())
def test_a_changed_hello_is_an_error_or_has_a_name_that_is_in_it(data: st.DataObject) -> None:
    changed = bytearray(hello("api.example.org", extension(ALPN, vector(2, vector(1, b"h2")))))
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] = data.draw(st.integers(0, 255))
    try:
        found = parse_client_hello(bytes(changed))
    except ValueError:
        return
    assert found is None or found.server_name.encode() in bytes(changed)

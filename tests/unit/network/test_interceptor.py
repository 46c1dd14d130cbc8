"""The head of a connection that smolvm hands over: what is accepted, and what hostile ones come to."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from bot_bottle.network.interceptor import Destination, ProtocolError, make_token, parse_head, read_head

TOKEN = "0123456789abcdef" * 4
START = b"SMOLICPT\1" + bytes.fromhex(TOKEN)


def head(address: str, port: int, start: bytes = START) -> bytes:
    family = 6 if ":" in address else 4
    packed = socket.inet_pton(socket.AF_INET6 if family == 6 else socket.AF_INET, address)
    return start + bytes([family]) + port.to_bytes(2, "big") + packed


@pytest.mark.parametrize(
    ("address", "port", "found"),
    [
        ("192.0.2.7", 443, "192.0.2.7"),
        ("192.0.2.7", 65535, "192.0.2.7"),
        ("2001:db8::7", 1, "2001:db8::7"),
        ("::ffff:127.0.0.1", 80, "127.0.0.1"),
    ],
)
def test_a_head_names_address_and_port(address: str, port: int, found: str) -> None:
    assert parse_head(head(address, port), TOKEN) == Destination(found, port)


def test_every_part_of_a_head_is_not_complete() -> None:
    for data in (head("192.0.2.7", 443), head("2001:db8::7", 443)):
        assert all(parse_head(data[:size], TOKEN) is None for size in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n", id="http"),
        pytest.param(b"SMOLMEG2" + bytes(40), id="another-protocol"),
        pytest.param(head("192.0.2.7", 443, b"SMOLICPT\2" + bytes.fromhex(TOKEN)), id="another-version"),
        pytest.param(head("192.0.2.7", 443, b"SMOLICPT\1" + bytes(32)), id="no-token"),
        pytest.param(head("192.0.2.7", 443, START[:-1] + b"\0"), id="last-byte-of-the-token"),
        pytest.param(START + b"\5\1\0" + bytes(16), id="family"),
        pytest.param(START + b"\0", id="family-0"),
        pytest.param(head("192.0.2.7", 0), id="port-0"),
        pytest.param(head("192.0.2.7", 443) + b"x", id="more"),
        pytest.param(head("2001:db8::7", 443) + bytes(1 << 16), id="much-more"),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_head(data, TOKEN)


def test_a_wrong_token_is_refused_at_its_first_wrong_byte() -> None:
    wrong = head("192.0.2.7", 443, b"SMOLICPT\1" + bytes.fromhex("1" + TOKEN[1:]))
    assert parse_head(wrong[:9], TOKEN) is None
    with pytest.raises(ProtocolError):
        parse_head(wrong[:10], TOKEN)


def test_no_bytes_at_all_crash_it() -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    for _ in range(20_000):
        data = bytearray(head("192.0.2.7", 443) if chance.random() < 0.5 else head("2001:db8::7", 443))
        for _ in range(chance.randrange(3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.randrange(len(data) + 1) :]
        try:
            found = parse_head(bytes(data), TOKEN)
        except ProtocolError:
            continue
        assert found is None or (data.startswith(START) and 0 < found.port < 65536)


def test_tokens_are_smolvms_and_differ() -> None:
    first, second = make_token(), make_token()
    assert first != second
    assert len(bytes.fromhex(first)) == 32


def fed(*parts: bytes, ended: bool = True, seconds: float = 10.0) -> Destination:
    async def read() -> Destination:
        reader = asyncio.StreamReader()
        for part in parts:
            reader.feed_data(part)
        if ended:
            reader.feed_eof()
        return await read_head(reader, TOKEN, seconds)

    return asyncio.run(read())


def test_a_head_is_read() -> None:
    assert fed(head("192.0.2.7", 443)) == Destination("192.0.2.7", 443)
    assert fed(*(bytes([byte]) for byte in head("2001:db8::7", 443))) == Destination("2001:db8::7", 443)


def test_one_that_ends_or_never_comes_is_refused() -> None:
    with pytest.raises(ProtocolError, match="ended"):
        fed(head("192.0.2.7", 443)[:-1])
    with pytest.raises(ProtocolError, match="within 0 s"):
        fed(START, ended=False, seconds=0)

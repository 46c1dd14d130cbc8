"""The name server of an emulated host: what it answers, by hand and to a real resolver; hostile questions."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
from collections.abc import Sequence

import pytest

from bot_bottle.network.name_server import FAILED, NO_SUCH_NAME, NameServer, parse_question

NAMES = {"api.example.org": ["192.0.2.10", "2001:db8::1", "192.0.2.11"], "six.example.org": ["2001:db8::1"]}


async def find(name: str) -> Sequence[str]:
    if name == "broken.example.org":
        raise OSError("no answer")
    if name not in NAMES:
        raise LookupError
    return NAMES[name]


def question(name: str, kind: int = 1, *, kinds: bytes = b"\0\1", flags: bytes = b"\1\0") -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"id" + flags + b"\0\1\0\0\0\0\0\0" + labels + b"\0" + kind.to_bytes(2, "big") + kinds


def reply(message: bytes) -> bytes:
    return asyncio.run(NameServer(find).reply(message))


def test_an_allowed_name_has_its_addresses() -> None:
    asked = question("API.example.org")
    found = reply(asked)
    assert found[:12] == b"id\x81\x80\0\1\0\2\0\0\0\0"
    assert found[12:].startswith(asked[12:])  # as it was asked, in its case
    records = found[len(asked) :]
    head = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4"
    assert records == head + bytes([192, 0, 2, 10]) + head + bytes([192, 0, 2, 11])


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("evil.example.org", 1, NO_SUCH_NAME),
        ("broken.example.org", 1, FAILED),
        ("six.example.org", 1, 0),
        ("api.example.org", 28, 0),
        ("secret.evil.example.org", 16, 0),
    ],
)
def test_other_answers_have_no_records(name: str, kind: int, status: int) -> None:
    asked = question(name, kind)
    assert reply(asked) == b"id\x81" + bytes([0x80 | status]) + b"\0\1\0\0\0\0\0\0" + asked[12:]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"id\1\0\0\1\0\0\0\0\0\0",
        question("api.example.org")[:-1],
        question("api.example.org", flags=b"\x81\0"),
        question("api.example.org", flags=b"\x28\0"),
        question("api.example.org", kinds=b"\0\3"),
        question("api.example.org").replace(b"\0\1\0\0", b"\0\2\0\0", 1),
        b"id\1\0\0\1\0\0\0\0\0\0\0\0\1\0\1",
        b"id\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1",
        b"id\1\0\0\1\0\0\0\0\0\0\3a.b\0\0\1\0\1",
        b"id\1\0\0\1\0\0\0\0\0\0\2\xc3\xa4\0\0\1\0\1",
        question(".".join(["a" * 63] * 4)),
    ],
)
def test_what_is_no_question_is_dropped(message: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        reply(message)


def test_no_bytes_at_all_crash_it() -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    for _ in range(20_000):
        message = bytearray(question("api.example.org"))
        for _ in range(chance.randrange(4)):
            message[chance.randrange(len(message))] = chance.randrange(256)
        del message[chance.randrange(len(message) + 1) :]
        try:
            found = parse_question(bytes(message))
        except ValueError:
            continue
        assert len(found.name) < 255


def test_a_real_resolver_gets_answers() -> None:
    async def asked() -> list[str]:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
            plug.bind(("127.0.0.1", 0))
            transport, _ = await loop.create_datagram_endpoint(lambda: NameServer(find), sock=plug)
            server = f"127.0.0.1:{plug.getsockname()[1]}"
            found = []
            for name in ("api.example.org", "evil.example.org"):
                argv = ["busybox", "nslookup", "-type=a", name, server]
                done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=False)
                found.append(done.stdout.decode())
            transport.close()
            return found

    allowed, refused = asyncio.run(asked())
    assert [line for line in allowed.splitlines() if line.startswith("Address: ")] == [
        "Address: 192.0.2.10",
        "Address: 192.0.2.11",
    ]
    assert "can't find evil.example.org: NXDOMAIN" in refused


def test_questions_come_over_tcp_one_after_the_other() -> None:
    async def asked() -> bytes:
        async with await asyncio.start_server(NameServer(find).serve, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for name in ("api.example.org", "evil.example.org"):
                message = question(name)
                writer.write(len(message).to_bytes(2, "big") + message)
            writer.write(b"\0\5wrong")  # at which the connection is closed
            found = await reader.read()
            writer.close()
            await writer.wait_closed()
            return found

    data, answers = asyncio.run(asked()), []
    while data:
        size = int.from_bytes(data[:2], "big")
        answers.append(data[2 : 2 + size])
        data = data[2 + size :]
    assert [(found[3] & 15, found[7]) for found in answers] == [(0, 2), (NO_SUCH_NAME, 0)]

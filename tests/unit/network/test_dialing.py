"""Connecting to the first address that answers, with real sockets of the loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bot_bottle.network.dialing import MOST, alternate, connect, resolve

SILENT, REFUSING, ANSWERING, LATER = (f"127.9.9.{number}" for number in range(1, 5))


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which ANSWERING, LATER and ::1 listen, and SILENT drops what comes: its queue is full."""
    with ExitStack() as stack:
        first = stack.enter_context(socket.create_server((ANSWERING, 0)))
        number: int = first.getsockname()[1]
        stack.enter_context(socket.create_server((LATER, number)))
        stack.enter_context(socket.create_server(("::1", number), family=socket.AF_INET6))
        stack.enter_context(socket.create_server((SILENT, number), backlog=0))
        for _ in range(2):  # Linux queues one more than it is asked for
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((SILENT, number))
        yield number


def peer(addresses: list[str], port: int) -> str:
    async def connected() -> str:
        _, writer = await connect(addresses, port)
        found: str = writer.get_extra_info("peername")[0]
        writer.close()
        return found

    return asyncio.run(connected())


@pytest.mark.parametrize(
    ("addresses", "used"),
    [
        ([ANSWERING], ANSWERING),
        ([ANSWERING, LATER], ANSWERING),
        ([REFUSING, ANSWERING], ANSWERING),
        ([SILENT, ANSWERING], ANSWERING),
        ([SILENT, REFUSING, SILENT, LATER], LATER),
        ([REFUSING, "::1"], "::1"),
    ],
)
def test_the_first_address_that_answers_is_used(port: int, addresses: list[str], used: str) -> None:
    assert peer(addresses, port) == used


def test_no_address_that_answers_is_an_error_with_its_reason(port: int) -> None:
    with pytest.raises(ConnectionRefusedError, match=REFUSING):
        peer([REFUSING], port)
    with pytest.raises(OSError, match="no address"):
        peer([], port)


def test_families_take_turns_and_the_number_is_limited() -> None:
    assert alternate(["::1", "::2", "127.0.0.1", "::3"]) == ["::1", "127.0.0.1", "::2", "::3"]
    assert len(alternate([f"127.0.0.{number}" for number in range(100)])) == MOST


def test_connections_that_are_not_used_are_closed(port: int) -> None:
    async def connected() -> list[asyncio.Task[object]]:
        _, writer = await connect([SILENT, ANSWERING], port)
        writer.close()
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    assert asyncio.run(connected()) == []


def test_a_name_that_cannot_be_one_does_not_resolve() -> None:
    with pytest.raises(OSError, match=r"label|Name or service|too long"):
        asyncio.run(resolve("a" * 300, 80))

"""The log of a bottle in the background: whole while it is small, its newest part when it is not."""

from __future__ import annotations

import os
import threading
import time

import pytest
from tests.support.bottle import wait_until

from bot_bottle.bottle import logs
from bot_bottle.errors import ReceiptError

MOST = 4 << 20
LINE = b"%09d\n"


def kept() -> int:
    return logs.path("blue").stat().st_blocks * 512


def numbers(data: bytes) -> list[int]:
    return [int(line) for line in data.splitlines()]


def test_a_log_is_read_as_it_was_written() -> None:
    log = logs.begin("blue")
    os.write(log, b"one\n\0\0two")
    os.close(log)
    dropped: list[int] = []
    assert b"".join(logs.read("blue", lambda: False, dropped.append)) == b"one\n\0\0two"
    assert dropped == []
    assert logs.path("blue").stat().st_mode & 0o777 == 0o600
    os.close(logs.begin("blue"))
    assert list(logs.read("blue", lambda: False)) == []
    with pytest.raises(ReceiptError, match="black"):
        list(logs.read("black", lambda: False))


def test_of_a_large_one_the_newest_part_is_kept() -> None:
    log = logs.begin("blue")
    logs.keep_small(os.dup(log), MOST)
    for number in range(1_200_000):
        if number % 1000 == 0:
            os.write(log, b"".join(LINE % each for each in range(number, number + 1000)))
    wait_until(lambda: kept() <= MOST)
    dropped: list[int] = []
    found = numbers(b"".join(logs.read("blue", lambda: False, dropped.append)))
    assert found == list(range(found[0], 1_200_000))
    assert len(found) * 10 >= MOST // 2
    assert dropped == [found[0] * 10]
    os.close(log)


def test_who_follows_misses_only_what_he_is_told_of() -> None:
    log = logs.begin("blue")
    logs.keep_small(os.dup(log), MOST)
    lasts = True

    def write() -> None:
        nonlocal lasts
        for number in range(0, 2_000_000, 1000):
            os.write(log, b"".join(LINE % each for each in range(number, number + 1000)))
        lasts = False

    writer = threading.Thread(target=write)
    writer.start()
    dropped: list[int] = []
    data = bytearray()
    for part in logs.read("blue", lambda: lasts, dropped.append):
        data += part
        time.sleep(0.001)
    writer.join()
    found = [int(line) for line in data.splitlines() if len(line) == 9]
    assert found == sorted(set(found))
    assert found[-1] == 1_999_999
    ends = len(data) + sum(dropped) - 20_000_000  # of lines that were cut
    assert 0 <= ends <= len(dropped)
    os.close(log)


def test_where_no_hole_can_be_made_all_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _length: int) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(logs, "_punch", refuse)
    log = logs.begin("blue")
    os.write(log, bytes(MOST + 1))
    logs._keep_small(log, MOST)
    assert sum(map(len, logs.read("blue", lambda: False))) == MOST + 1
    os.close(log)

"""Telling smolvm's own failures from a command's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bot_bottle.errors import SmolvmError
from bot_bottle.host.process import Completed
from bot_bottle.vm.host import StderrFilter, checked

FAILURE = b'{"error":{"code":"NOT_FOUND","message":"vm not found: x"}}\n'


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


def filtered(pipe: tuple[int, int], parts: list[bytes], code: int) -> tuple[bytes, str, str]:
    read, write = pipe
    stderr_filter = StderrFilter(write)
    for part in parts:
        stderr_filter.feed(part)
    stderr_filter.close(code)
    os.close(write)
    return os.read(read, 1 << 16), stderr_filter.failure, stderr_filter.last_line


def test_what_a_command_says_passes_through(pipe: tuple[int, int]) -> None:
    assert filtered(pipe, [b"one\ntw", b"o\n", b"no newline"], 1) == (
        b"one\ntwo\nno newline",
        "",
        "no newline",
    )


@pytest.mark.parametrize("cut", [1, 5, 12, 20, len(FAILURE) - 1, len(FAILURE)])
def test_smolvms_last_word_is_held_back(pipe: tuple[int, int], cut: int) -> None:
    out, failure, _ = filtered(pipe, [b"progress\n", FAILURE[:cut], FAILURE[cut:]], 1)
    assert out == b"progress\n"
    assert failure == "vm not found: x (NOT_FOUND)"


def test_the_same_line_from_a_command_is_the_commands(pipe: tuple[int, int]) -> None:
    assert filtered(pipe, [FAILURE], 3)[:2] == (FAILURE, "")


def test_a_line_that_goes_on_is_let_go(pipe: tuple[int, int]) -> None:
    long = b'{"error":{' + b"x" * 70000
    _, write = pipe
    stderr_filter = StderrFilter(write)
    os.set_blocking(write, False)
    stderr_filter.feed(long[:60000])
    assert stderr_filter._held
    stderr_filter.feed(b"x" * 4000 + b"\n" + b"next\n")
    assert not stderr_filter._held
    os.close(write)


def test_a_failed_call_has_smolvms_words() -> None:
    with pytest.raises(SmolvmError, match="machine start failed with exit status 1") as caught:
        checked(Completed(("smolvm", "machine", "start"), 1, b"", b"Starting...\n" + FAILURE))
    assert caught.value.why == "vm not found: x (NOT_FOUND)"
    with pytest.raises(SmolvmError) as caught:
        checked(Completed(("smolvm", "x"), 2, b"", b"\x1b[33mplain\x1b[0m words"))
    assert caught.value.why == "plain words"

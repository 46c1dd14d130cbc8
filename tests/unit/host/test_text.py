"""Text from outside, as a terminal gets it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_bottle.host.text import is_printable, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢 text", "plain ü 漢 text"),
        ("\x1b[2Jcleared", "\\x1b[2Jcleared"),
        ("one\ntwo\tthree\r", "one\\ntwo\\tthree\\r"),
        ("c1 \x9b31m", "c1 \\x9b31m"),
        ("right\u202eleft", "right\\u202eleft"),
        ("line\u2028separator", "line\\u2028separator"),
        ("tag \U000e0041", "tag \\U000e0041"),
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9 \x00", "caf\\xe9 \\x00"),
        ("caf\udce9", "caf\\xe9"),
        ("lone \ud800", "lone \\ud800"),
        ("", ""),
    ],
)
def test_what_is_not_printable_is_escaped(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown


def test_long_text_is_cut_before_it_is_escaped() -> None:
    assert printable("a" * 80, limit=80) == "a" * 80
    assert printable("\n" * 81, limit=80) == "\\n" * 80 + "..."


def test_lines_and_tabs_stay_where_several_lines_may_be() -> None:
    assert printable_lines("one\n\ttwo\r\n\x1b[0m") == "one\n\ttwo\\r\n\\x1b[0m"


@given(st.text() | st.binary())
def test_no_control_character_reaches_a_terminal(text: str | bytes) -> None:
    assert is_printable(printable(text))
    assert is_printable(printable_lines(text).replace("\n", "").replace("\t", ""))

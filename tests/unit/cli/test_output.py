"""Tables as they are printed."""

from __future__ import annotations

import pytest

from bot_bottle.cli.output import ago, table


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert table([("NAME", "STATE"), ("a-long-name", "running"), ("b", "")]) == (
        "NAME         STATE\na-long-name  running\nb"
    )


def test_columns_have_a_least_width() -> None:
    assert table([("a", "b", "c")], least=(3, 2)) == "a    b   c"


def test_a_cell_above_the_most_pushes_its_own_line_aside() -> None:
    rows = [("key", "v" * 9, "from"), ("other", "v", "from")]
    assert table(rows, most=5) == "key    vvvvvvvvv  from\nother  v      from"


def test_numbers_are_aligned_right() -> None:
    rows = [("NAME", "SIZE", "SECONDS"), ("a", "9", "1.0"), ("b", "10", "20.5")]
    assert table(rows, least=(0, 0, 7), right=(1, 2)) == (
        "NAME  SIZE  SECONDS\na        9      1.0\nb       10     20.5"
    )


def test_a_short_row_ends_with_a_cell_of_any_length() -> None:
    rows = [("native", "direct", "1.00 s"), ("native", "does not work here: no such file")]
    assert table(rows) == "native  direct  1.00 s\nnative  does not work here: no such file"


def test_no_rows_are_no_lines() -> None:
    assert table([]) == ""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "just now"), (60, "1 minute ago"), (7200, "2 hours ago"), (86400 * 3, "3 days ago")],
)
def test_times_are_printed_in_the_largest_unit(seconds: float, shown: str) -> None:
    assert ago(seconds) == shown

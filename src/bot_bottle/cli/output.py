"""How tables and times are printed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def ago(seconds: float) -> str:
    """Return how long ago something was, for example `3 hours ago`."""
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def table(
    rows: Iterable[Sequence[str]],
    *,
    least: Sequence[int] = (),
    most: int | None = None,
    right: Collection[int] = (),
) -> str:
    """Return rows in aligned columns with two spaces between them, a line for each row.

    A column is as wide as its longest cell: `least` characters or more, and `most` or less, above which a
    cell pushes the rest of its own line aside. The columns numbered in `right` are aligned right. The last
    cell of a row may have any length, and a row may have fewer cells than others.
    """
    rows = list(rows)
    widths = list(least)
    for row in rows:
        for column, cell in enumerate(row[:-1]):
            widths += [0] * (column + 1 - len(widths))
            widths[column] = max(widths[column], min(len(cell), most or len(cell)))
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(row[:-1])
        ]
        last = len(row) - 1
        ends = row[last].rjust(widths[last]) if last in right and last < len(widths) else row[last]
        lines.append("  ".join([*cells, ends]).rstrip())
    return "\n".join(lines)

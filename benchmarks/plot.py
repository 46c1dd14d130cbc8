"""Figures as SVG: each claim's two ways as bars, and curves of what grows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from html import escape

from benchmarks.measure import Claim, figure

_WIDTH, _ROW = 860, 17  # pixels
_LEFT, _LONGEST = 300, 440  # where bars begin, and how long they may be
_SIDE = 170  # pixels of a curve's box
_OURS, _THEIRS, _LIMIT = "#1f77b4", "#b0b0b0", "#d62728"


def plot(claims: Sequence[Claim]) -> str:
    """Draw claims. A red mark on a bar of ours is how long it may be."""
    curves = [claim for claim in claims if claim.amount is not None]
    parts: list[str] = []
    y = 10
    for claim in claims:
        if claim not in curves:
            parts += _bars(claim, y)
            y += 3 * _ROW + 8
    for number, unit in enumerate(dict.fromkeys(claim.what.split()[-1] for claim in curves)):
        same = [claim for claim in curves if claim.what.endswith(unit)]
        parts += _curve(same, unit, 60 + number * (_SIDE + 180), y)
    y += _SIDE + 50 if curves else 0
    drawn = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{drawn}\n</svg>\n'
    )


def _bars(claim: Claim, y: int) -> Iterable[str]:
    ours, theirs = statistics.median(claim.ours), statistics.median(claim.theirs)
    limit = claim.at_most * theirs if claim.at_most is not None else 0.0
    scale = _LONGEST / max(ours, theirs, limit)
    yield f'<text x="10" y="{y + 12}" font-weight="bold">{escape(claim.what)}</text>'
    ways = (("bottle", ours, claim.ours, _OURS), (claim.than, theirs, claim.theirs, _THEIRS))
    for row, (name, value, figures, colour) in enumerate(ways, 1):
        top, length = y + row * _ROW, max(value * scale, 1)
        yield f'<text x="{_LEFT - 8}" y="{top + 12}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect x="{_LEFT}" y="{top + 2}" width="{length:.1f}" height="12" fill="{colour}"/>'
        yield f'<text x="{_LEFT + length + 6:.1f}" y="{top + 12}">{figure(figures, claim.unit)}</text>'
    if limit:
        mark = _LEFT + limit * scale
        yield f'<path d="M{mark:.1f} {y + _ROW} v{_ROW - 1}" stroke="{_LIMIT}" stroke-width="2"/>'


def _curve(claims: Sequence[Claim], unit: str, x: int, y: int) -> Iterable[str]:
    points = [(claim.amount or 0.0, statistics.median(claim.ours)) for claim in claims]
    most, longest = (max(values) for values in zip(*points, strict=True))
    low = y + _SIDE + 15
    placed = [(x + _SIDE * amount / most, low - _SIDE * took / longest) for amount, took in points]
    path = " L".join(f"{across:.1f} {up:.1f}" for across, up in placed)
    yield f'<path d="M{x} {low - _SIDE} V{low} H{x + _SIDE}" stroke="black" fill="none"/>'
    yield f'<path d="M{x} {low} L{path}" stroke="{_OURS}" fill="none" stroke-width="2"/>'
    for (across, up), (amount, took) in zip(placed, points, strict=True):
        yield f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" fill="{_OURS}"/>'
        yield f'<text x="{across + 6:.1f}" y="{up + 4:.1f}">{amount:,.0f} {unit}: {took:.3g} s</text>'

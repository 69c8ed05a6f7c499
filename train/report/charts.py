"""Plots curves as inline SVG, which fits pages of any width and follows their style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34
_MOST_POINTS = 300


class Line(NamedTuple):
    """A curve.

    Attributes:
        name: name in the legend.
        style: CSS class of the curve.
        points: pairs of an epoch and a value.
    """

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def chart(lines: Sequence[Line], what: str, *, most: float | None = None) -> str:
    """Returns the HTML of a chart of non-negative values over epochs, with a legend below it.

    Args:
        lines: the curves.
        what: caption, which says what the values are.
        most: upper end of the vertical axis; None to choose one that fits the values.
    """
    lines = [line._replace(points=_thinned(line.points)) for line in lines]
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    last = max(x for x, _ in points) or 1.0
    top = most or _ceiling([y for _, y in points])
    ticks = [top * i / 4 for i in range(5)]
    grid = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_y(t, top):.1f}" '
        f'y2="{_y(t, top):.1f}"/><text x="{_LEFT - 6}" y="{_y(t, top) + 4:.1f}" '
        f'text-anchor="end">{t:.3g}</text>'
        for t in ticks
    )
    below = _HEIGHT - _BOTTOM + 16
    grid += "".join(
        f'<text x="{_x(x, last):.1f}" y="{below}" text-anchor="middle">{x:g}</text>'
        for x in _epochs(last)
    )
    curves = "".join(_curve(line, last, top) for line in lines)
    legend = "".join(
        f'<li><i class="{line.style}"></i>{html.escape(line.name)}</li>' for line in lines
    )
    return (
        f'<figure class="chart"><figcaption>{html.escape(what)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(what)}">'
        f'{grid}<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 2}" text-anchor="middle">epoch'
        f"</text>{curves}</svg><ul>{legend}</ul></figure>"
    )


def _curve(line: Line, last: float, top: float) -> str:
    places = [(_x(x, last), _y(y, top)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = ""
    if len(places) <= 40:
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places)
    return f'<g class="{line.style}"><polyline points="{path}"/>{dots}</g>'


def _x(value: float, last: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / last


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(value / top, 1)


def _ceiling(values: Sequence[float]) -> float:
    """Returns a round number that is at least as large as all but the highest 2 % of the values.

    If there are few values, the highest one may be larger. The first values of a curve may be far
    above the rest.
    """
    ordered = sorted(values)
    high = max(ordered[int(0.98 * (len(ordered) - 1))], 1e-6)
    unit = 10 ** math.floor(math.log10(high))
    return next(unit * step for step in (1, 2, 4, 6, 8, 10, 20) if unit * step >= high)


def _epochs(last: float) -> list[float]:
    """Returns evenly spaced, round epochs from 0 to `last`, as labels of the horizontal axis."""
    rough = last / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * s for s in (1, 2, 5, 10) if unit * s >= rough)
    return [step * i for i in range(math.floor(last / step + 1e-9) + 1)]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the finite points; if there are too many, means of groups of neighbours."""
    kept = [p for p in points if math.isfinite(p[1])]
    size = -(-len(kept) // _MOST_POINTS) or 1
    groups = (kept[i : i + size] for i in range(0, len(kept), size))
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]

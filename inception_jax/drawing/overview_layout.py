"""Lays out the boxes of a whole network in columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inception_jax.drawing import labels
from inception_jax.drawing.canvas import (
    GREY,
    MAIN,
    Box,
    Line,
    Point,
    Shape,
    Text,
    moved,
    text_width,
)
from inception_jax.drawing.overview import Row

_PADDING = 12
_GAP = 18  # between rows
_AUX_GAP = 26  # between a stage and the auxiliary classifier on it
_COLUMN_GAP = 44
_LOW, _HIGH = 28, 44
_ASPECT = 4 / 3  # preferred width / height of the drawing


def place(rows: Sequence[Row]) -> tuple[list[Shape], Point]:
    """Lays out the boxes of a network in the number of columns with the lowest `_cost`.

    Returns:
        The boxes and lines, and the width and height of the drawing.
    """
    splits = [_split(rows, count, more) for count in range(1, 6) for more in (0, -1, 1, -2, 2)]
    choices = [_in_columns(columns, max(map(_min_width, rows))) for columns in splits]
    return min(choices, key=lambda choice: _cost(*choice[1]))


def _cost(width: float, height: float) -> float:
    """Returns the area, weighted by how far width / height is from the preferred 4 / 3."""
    aspect = width / height / _ASPECT
    return width * height * math.sqrt(max(aspect, 1 / aspect))


def _height(row: Row) -> float:
    return _HIGH if row.name else _LOW


def _min_width(row: Row) -> float:
    shape = text_width(labels.shape_text(row.shape), 12)
    first = text_width(row.name or row.text, MAIN, bold=bool(row.name)) + 16 + shape
    return math.ceil(max(first, text_width(row.text, 12))) + 2 * _PADDING


def _in_columns(columns: list[list[Row]], width: float) -> tuple[list[Shape], Point]:
    shapes: list[Shape] = []
    x, bottom, previous_end = 0.0, 0.0, None
    for column in columns:
        aux_widths = [_min_width(row.aux) for row in column if row.aux]
        if previous_end is not None:
            shapes.append(_passage(previous_end, x - _COLUMN_GAP / 2, x + width / 2))
        boxes, height = _column(column, width)
        shapes += moved(boxes, x, 0)
        previous_end = (x + width / 2, height)
        bottom = max(bottom, height)
        x += width + (_AUX_GAP + max(aux_widths) if aux_widths else 0) + _COLUMN_GAP
    room = _GAP if len(columns) > 1 else 0  # for the lines between columns, above and below
    return moved(shapes, 0, room), (x - _COLUMN_GAP, bottom + 2 * room)


def _split(rows: Sequence[Row], count: int, more: int) -> list[list[Row]]:
    """Splits rows into at most `count` columns.

    Args:
        rows: rows from top to bottom.
        count: largest number of columns.
        more: 0 for columns of about equal height. Otherwise, about how many more rows than that
            each column except the last gets; may be negative.
    """
    total = sum(_height(row) + _GAP for row in rows)
    share = total / count + more * (_HIGH + _GAP)
    columns: list[list[Row]] = [[]]
    done = 0.0
    for row in rows:
        full = done + _height(row) / 2 > share * len(columns)
        if full and columns[-1] and len(columns) < count:
            columns.append([])
        columns[-1].append(row)
        done += _height(row) + _GAP
    return columns


def _column(column: Sequence[Row], width: float) -> tuple[list[Shape], float]:
    shapes: list[Shape] = []
    y = 0.0
    for index, row in enumerate(column):
        if index:
            shapes.append(Line(((width / 2, y - _GAP), (width / 2, y))))
        shapes.append(_box(row, 0, y, width))
        if row.aux:
            x, middle = width + _AUX_GAP, y + _height(row) / 2
            shapes.append(Line(((width, middle), (x, middle)), dashed=True))
            shapes.append(_box(row.aux, x, y, _min_width(row.aux)))
        y += _height(row) + _GAP
    return shapes, y - _GAP


def _box(row: Row, x: float, y: float, width: float) -> Box:
    left, right = x + _PADDING, x + width - _PADDING
    shape = labels.shape_text(row.shape)
    if not row.name:
        base = y + _height(row) / 2 + 4.5
        texts = (
            Text(left, base, row.text, anchor="start"),
            Text(right, base, shape, 12, ink=GREY, anchor="end"),
        )
    else:
        texts = (
            Text(left, y + 18, row.name, bold=True, anchor="start"),
            Text(right, y + 18, shape, 12, ink=GREY, anchor="end"),
            Text(left, y + 35, row.text, 12, anchor="start"),
        )
    return Box(x, y, width, _height(row), row.colour, texts, row.tooltip)


def _passage(start: Point, between: float, end: float) -> Line:
    """Returns the line from the end of a column to the start of the next one.

    Args:
        start: where the line leaves the first column, at its bottom.
        between: x position halfway between the two columns.
        end: x position where the line enters the next column, at its top.
    """
    x, y = start
    low, high = y + _GAP * 0.6, -_GAP
    return Line(((x, y), (x, low), (between, low), (between, high), (end, high), (end, 0)))

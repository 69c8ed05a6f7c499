"""The shapes of drawings: boxes, lines and text. All positions are in pixels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal

from inception_jax.drawing.labels import Colour

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]

MAIN, SMALL, TITLE = 13, 11, 18
"""Font sizes. Nothing is smaller than `SMALL`."""

INK, GREY = "#1f2328", "#5f6670"

# Widths of characters in ems: those of DejaVu Sans, which is wider than the other fonts in `svg`,
# rounded up. Characters that are not listed are as wide as a small letter.
_WIDTHS = {
    " .,:;|!'·": 0.34,
    "ijlI": 0.30,
    "ft-()/": 0.42,
    "rs": 0.53,
    "m": 0.98,
    "wM+×=%": 0.87,
    "W": 1.0,
    "ABCDEFGHJKLNOPQRSTUVXYZ": 0.79,
}
_EMS = {character: width for characters, width in _WIDTHS.items() for character in characters}
_BOLD = 1.12  # times wider


@dataclasses.dataclass(frozen=True)
class Text:
    """A line of text.

    Attributes:
        x: x position of the start, middle or end of the text, see `anchor`.
        y: y position of the baseline.
        text: the text itself.
        size: font size.
        bold: whether the font is bold.
        ink: colour of the text.
        anchor: which point of the text is at `x`.
    """

    x: float
    y: float
    text: str
    size: int = MAIN
    bold: bool = False
    ink: str = INK
    anchor: Anchor = "middle"

    @property
    def width(self) -> float:
        """Upper limit of the text's width, in any font that the module `svg` names."""
        return text_width(self.text, self.size, bold=self.bold)

    def moved(self, dx: float, dy: float) -> Text:
        """Returns a copy moved by (dx, dy)."""
        return dataclasses.replace(self, x=self.x + dx, y=self.y + dy)


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle with lines of text.

    Attributes:
        x: x position of the left side.
        y: y position of the upper side.
        width: width of the rectangle.
        height: height of the rectangle.
        colour: kind of operation, which sets the colour.
        texts: lines of text inside the rectangle.
        title: text of the tooltip.
        frame: whether the rectangle is only a dashed outline around other boxes.
        round: whether a circle is drawn instead of a rectangle.
    """

    x: float
    y: float
    width: float
    height: float
    colour: Colour
    texts: tuple[Text, ...] = ()
    title: str = ""
    frame: bool = False
    round: bool = False

    def moved(self, dx: float, dy: float) -> Box:
        """Returns a copy moved by (dx, dy)."""
        texts = tuple(text.moved(dx, dy) for text in self.texts)
        return dataclasses.replace(self, x=self.x + dx, y=self.y + dy, texts=texts)


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of horizontal and vertical segments.

    Attributes:
        points: start, corners and end of the line.
        arrow: whether the last point is the tip of an arrow.
        dashed: whether the line is dashed. A dashed line leads to a part used only in training.
    """

    points: tuple[Point, ...]
    arrow: bool = True
    dashed: bool = False

    def moved(self, dx: float, dy: float) -> Line:
        """Returns a copy moved by (dx, dy)."""
        points = tuple((x + dx, y + dy) for x, y in self.points)
        return dataclasses.replace(self, points=points)


Shape = Text | Box | Line


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A finished drawing.

    Attributes:
        width: width in pixels.
        height: height in pixels.
        title: title for screen readers.
        description: description for screen readers.
        shapes: the shapes, in the order in which they are painted.
    """

    width: float
    height: float
    title: str
    description: str
    shapes: tuple[Shape, ...]


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Returns an upper limit of the width, in pixels, of a line of text of this font size."""
    ems = sum(_EMS.get(character, 0.645) for character in text)
    return ems * size * (_BOLD if bold else 1)


def moved(shapes: Iterable[Shape], dx: float, dy: float) -> list[Shape]:
    """Returns copies of shapes, moved by (dx, dy)."""
    return [shape.moved(dx, dy) for shape in shapes]


MARGIN = 24
_SWATCH = 14


def framed(
    shapes: Sequence[Shape],
    size: tuple[float, float],
    *,
    heading: str,
    subheading: str,
    legend: Sequence[tuple[Colour, str]],
    description: str,
    centred: bool,
) -> Drawing:
    """Returns a drawing of some shapes with a heading above them and a legend below them.

    Args:
        shapes: shapes in an area that starts at (0, 0).
        size: width and height of that area.
        heading: first line of text; also the drawing's title.
        subheading: second line of text.
        legend: colours and what they stand for.
        description: description for screen readers.
        centred: whether the shapes are centred; otherwise they start at the left.
    """
    texts = [
        Text(MARGIN, MARGIN + 14, heading, TITLE, bold=True, anchor="start"),
        Text(MARGIN, MARGIN + 35, subheading, 12, ink=GREY, anchor="start"),
    ]
    entries: list[tuple[Colour, Text]] = [
        (colour, Text(0, 0, text, 12, anchor="start")) for colour, text in legend
    ]
    widest = max([text.width + 2 * _SWATCH for _, text in entries], default=0)
    inner = math.ceil(max(size[0], widest, *(text.width for text in texts)))
    top = MARGIN + 58
    left = MARGIN + (inner - size[0]) / 2 * centred
    keys, bottom = _legend(entries, inner, top + size[1] + 24)
    return Drawing(
        width=inner + 2 * MARGIN,
        height=bottom + MARGIN,
        title=heading,
        description=description,
        shapes=(*texts, *moved(shapes, left, top), *keys),
    )


def _legend(
    entries: Sequence[tuple[Colour, Text]], width: float, top: float
) -> tuple[list[Shape], float]:
    """Lays out the legend in rows; returns its shapes and the y position of its bottom.

    Args:
        entries: colour and text of each entry.
        width: largest width of a row.
        top: y position of the first row.
    """
    shapes: list[Shape] = []
    x, y = 0.0, top
    for colour, text in entries:
        entry = _SWATCH + 7 + text.width
        if x and x + entry > width:
            x, y = 0.0, y + _SWATCH + 8
        shapes.append(Box(MARGIN + x, y, _SWATCH, _SWATCH, colour))
        shapes.append(text.moved(MARGIN + x + _SWATCH + 7, y + 11))
        x += entry + 18
    return shapes, y + _SWATCH

"""Lays out the boxes of a module: data flows downwards, branches are columns.

A block is a group of boxes. It starts at y = 0 and has a vertical axis at x = 0. The boxes of a
series are centred on the axis. A concatenation or a split is a bar as wide as its branches, so that
the lines to them are straight. Widths are even numbers, so their halves and sums are exact, and
positions can be tested for equality.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from inception_jax.drawing import labels
from inception_jax.drawing.canvas import (
    GREY,
    MAIN,
    SMALL,
    Box,
    Line,
    Point,
    Shape,
    Text,
    moved,
    text_width,
)
from inception_jax.drawing.graph import Graph, Node
from inception_jax.drawing.labels import Colour
from inception_jax.drawing.series_parallel import Item, Parallel, Repeated, Series

_PADDING = 11  # between a text and the sides of its box
_COLUMN_GAP, _ROW_GAP, _FORK_GAP = 18, 20, 32
_LOW, _HIGH = 28, 42  # heights of boxes of one line and of two
_CIRCLE = 24
_FRAME = 16  # between a frame and the boxes in it
_FRAME_TOP = 20  # height of a frame's name
_BARS = ("concat", "split")


@dataclasses.dataclass(frozen=True)
class Style:
    """What is needed to draw any box of a module: the module's data, and the width of boxes.

    Attributes:
        graph: graph of the network that contains the module.
        nodes: nodes of the module, by id.
        usual: operations that usually follow a convolution, such as BN and ReLU, by the colour of
            the convolution's box. The legend names them, so boxes do not repeat them; see
            `labels.usual_after`.
        module: path of the module that is drawn.
        width: width of all boxes except bars and circles; set by `place`.
    """

    graph: Graph
    nodes: Mapping[int, Node]
    usual: Mapping[Colour, tuple[str, ...]]
    module: str
    width: float = 0


@dataclasses.dataclass(frozen=True)
class Block:
    """A group of boxes and lines around a vertical axis at x = 0.

    Attributes:
        left: extent to the left of the axis.
        right: extent to the right of the axis.
        height: height of the group.
        entries: x positions at which lines enter at the top.
        through: entries whose line does not end at a box, and so needs no arrow.
        exits: points at which lines leave.
        shapes: boxes and lines.
        bar: whether the block is one box that may be widened to the width of its neighbours.
    """

    left: float
    right: float
    height: float
    entries: tuple[float, ...]
    through: frozenset[float]
    exits: tuple[Point, ...]
    shapes: tuple[Shape, ...]
    bar: bool = False

    def moved(self, dx: float, dy: float) -> Block:
        """Returns a copy whose shapes are moved by (dx, dy), while the axis stays at x = 0."""
        return dataclasses.replace(
            self,
            left=self.left - dx,
            right=self.right + dx,
            entries=tuple(x + dx for x in self.entries),
            through=frozenset(x + dx for x in self.through),
            exits=tuple((x + dx, y + dy) for x, y in self.exits),
            shapes=tuple(moved(self.shapes, dx, dy)),
        )


def place(series: Series, style: Style, ends: tuple[str, str]) -> Block:
    """Lays out a module between a box for its input and a box for its output.

    Args:
        series: items of the module.
        style: style of the drawing; `width` is replaced.
        ends: lines of text in the input box and in the output box.

    Returns:
        The block of all boxes and lines.
    """
    style = dataclasses.replace(style, width=_widest(series, style))
    blocks = [_data(ends[0]), *(_item(item, style) for item in series), _data(ends[1])]
    return _stack(blocks)


def _widest(series: Series, style: Style) -> float:
    """Returns the width of the widest box, except bars and circles."""
    widths = [0.0]
    for item in series:
        if isinstance(item, Repeated):
            widths.append(_widest(item.series, _style_inside(style, item)))
        elif isinstance(item, Parallel):
            widths += [_widest(branch, style) for branch in item.branches]
        elif style.nodes[item].kind not in (*_BARS, "add"):
            widths.append(_min_width(*_texts(style.nodes[item], style)))
    return max(widths)


def _style_inside(style: Style, item: Repeated) -> Style:
    """Returns the style inside a frame around repeated modules.

    There, the paths in the labels of boxes are relative to the first repeated module.
    """
    return dataclasses.replace(style, module=item.repeat.first)


def _item(item: Item, style: Style) -> Block:
    if isinstance(item, int):
        return _node(style.nodes[item], style)
    if isinstance(item, Repeated):
        return _frame(item, style)
    return _columns(item, style)


def _series(series: Series, style: Style) -> Block:
    if not series:
        return Block(14, 14, 0, (0.0,), frozenset({0.0}), ((0.0, 0.0),), ())
    return _stack([_item(item, style) for item in series])


def _texts(node: Node, style: Style) -> tuple[str, str]:
    return labels.first_line(node), labels.second_line(node, style.usual, style.module)


def _min_width(first: str, second: str) -> float:
    width = max(text_width(first, MAIN), text_width(second, SMALL))
    return 2 * math.ceil(width / 2) + 2 * _PADDING


def _node(node: Node, style: Style) -> Block:
    first, second = _texts(node, style)
    tooltip = labels.tooltip(node)
    if node.kind == "add":
        plus = Text(0, _CIRCLE / 2 + 5.5, first, 16)
        circle = Box(-_CIRCLE / 2, 0, _CIRCLE, _CIRCLE, "join", (plus,), tooltip, round=True)
        return _box(circle, bar=False)
    tall = second or node.kind in ("conv", "linear", "max_pool", "avg_pool", "identity")
    height = _HIGH if tall else _LOW
    bar = node.kind in _BARS
    width = _min_width(first, second) if bar else style.width
    return _box(_labelled((width, height), labels.colour(node), (first, second), tooltip), bar=bar)


def _data(text: str) -> Block:
    width = _min_width(text, "")
    return _box(_labelled((width, _LOW), "data", (text, "")), bar=True)


def _labelled(size: Point, colour: Colour, texts: tuple[str, str], title: str = "") -> Box:
    (width, height), (first, second) = size, texts
    middle = height / 2 + 4.5
    lines = [Text(0, middle - (8 if second else 0), first)]
    if second:
        lines.append(Text(0, middle + 8, second, SMALL, ink=GREY))
    return Box(-width / 2, 0, width, height, colour, tuple(lines), title)


def _box(box: Box, *, bar: bool) -> Block:
    half = box.width / 2
    exits = ((0.0, box.height),)
    return Block(half, half, box.height, (0.0,), frozenset(), exits, (box,), bar)


def _widened(block: Block, other: Block) -> Block:
    """Returns a bar at least as wide as another block, and centred on it."""
    (box,) = block.shapes
    assert isinstance(box, Box)
    middle = (other.right - other.left) / 2
    width = max(box.width, other.right + other.left)
    texts = tuple(dataclasses.replace(text, x=middle) for text in box.texts)
    wide = dataclasses.replace(box, x=middle - width / 2, width=width, texts=texts)
    return dataclasses.replace(
        block, left=width / 2 - middle, right=width / 2 + middle, shapes=(wide,)
    )


def _stack(blocks: Sequence[Block]) -> Block:
    """Stacks blocks from top to bottom, with lines between them; returns them as one block."""
    placed: list[Block] = []
    shapes: list[Shape] = []
    y = 0.0
    for index, block in enumerate(blocks):
        if block.bar and index and len(placed[-1].exits) > 1:
            block = _widened(block, placed[-1])
        if block.bar and index + 1 < len(blocks) and len(blocks[index + 1].entries) > 1:
            block = _widened(block, blocks[index + 1])
        if placed:
            y += _gap(placed[-1], block)
        block = block.moved(0, y)
        if placed:
            shapes += _joined(placed[-1], block, y)
        placed.append(block)
        y += block.height
    return Block(
        max(block.left for block in placed),
        max(block.right for block in placed),
        y,
        placed[0].entries,
        placed[0].through,
        placed[-1].exits,
        (*shapes, *(shape for block in placed for shape in block.shapes)),
    )


def _gap(above: Block, below: Block) -> float:
    return _FORK_GAP if len(below.entries) > 1 and not above.bar else _ROW_GAP


def _joined(above: Block, below: Block, top: float) -> list[Shape]:
    """Returns the lines from a block to the next one, which begins at `top`."""
    start, bottom = above.exits[0]
    if len(above.exits) > 1:
        if below.bar:
            return [Line(((x, y), (x, top))) for x, y in above.exits]
        return [_to_circle(point, top) for point in above.exits]
    if above.bar or below.entries == (start,):
        return [_down(x, bottom, top, below) for x in below.entries]
    bus = bottom + _FORK_GAP / 2 - 3
    ends = min(start, *below.entries), max(start, *below.entries)
    stem = Line(((start, bottom), (start, bus)), arrow=False)
    across = Line(((ends[0], bus), (ends[1], bus)), arrow=False)
    return [stem, across, *(_down(x, bus, top, below) for x in below.entries)]


def _down(x: float, start: float, end: float, below: Block) -> Line:
    return Line(((x, start), (x, end)), arrow=x not in below.through)


def _to_circle(point: Point, top: float) -> Line:
    x, y = point
    if x == 0:
        return Line(((x, y), (x, top)))
    side = -_CIRCLE / 2 if x < 0 else _CIRCLE / 2
    middle = top + _CIRCLE / 2
    return Line(((x, y), (x, middle), (side, middle)))


def _columns(item: Parallel, style: Style) -> Block:
    """Places branches side by side; returns them as one block.

    If the branches end in a sum, the block's axis is that of the main branch. Otherwise the axis is
    halfway between the lines that enter on the far left and on the far right.
    """
    placed: list[Block] = []
    x = main = 0.0
    for block in (_series(branch, style) for branch in item.branches):
        main = x + block.left
        placed.append(block.moved(main, 0))
        x = main + block.right + _COLUMN_GAP
    axis = main if item.summed else (placed[0].entries[0] + placed[-1].entries[-1]) / 2
    placed = [block.moved(-axis, 0) for block in placed]
    return Block(
        axis,
        x - _COLUMN_GAP - axis,
        max(block.height for block in placed),
        tuple(entry for block in placed for entry in block.entries),
        frozenset().union(*(block.through for block in placed)),
        tuple(point for block in placed for point in block.exits),
        tuple(shape for block in placed for shape in block.shapes),
    )


def _frame(item: Repeated, style: Style) -> Block:
    """Returns a repeated module in a dashed frame; lines enter and leave it at x = 0."""
    repeat = item.repeat
    times = f"{repeat.count} × " if repeat.count > 1 else ""
    name = Text(0, 0, times + style.graph.class_name(repeat.first), SMALL, True, GREY, "start")
    start = Block(0, 0, 0, (0.0,), frozenset({0.0}), ((0.0, _FRAME_TOP),), ())
    inner = _series(item.series, _style_inside(style, item))
    top = _FRAME_TOP + _gap(start, inner)
    inner = inner.moved(0, top)
    lines = _joined(start, inner, top)
    stem = Line(((0, 0), (0, _FRAME_TOP)), arrow=False)
    height = top + inner.height + _FRAME
    left = max(inner.left + _FRAME, math.ceil(name.width) + 2 * _PADDING)
    right = inner.right + _FRAME
    box = Box(-left, 0, left + right, height, "data", (name.moved(8 - left, 16),), frame=True)
    x, y = inner.exits[0]
    end = Line(((x, y), (x, height)), arrow=False)
    return Block(
        left,
        right,
        height,
        (0.0,),
        frozenset({0.0}),
        ((0.0, height),),
        (box, stem, *lines, *inner.shapes, end),
    )

"""Writes drawings as SVG."""

from __future__ import annotations

from xml.etree import ElementTree

from inception_jax.drawing.canvas import Box, Drawing, Line, Point, Text
from inception_jax.drawing.labels import Colour

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
_LINE = "#57606a"

_COLOURS: dict[Colour, tuple[str, str]] = {
    "data": ("#ffffff", "#8c959f"),
    "conv": ("#dceafb", "#4a7fb5"),
    "depthwise": ("#d5f1ea", "#2f8f7c"),
    "pool": ("#fde3dd", "#c4624d"),
    "join": ("#e9ebee", "#6e7781"),
    "pointwise": ("#fff3cf", "#b78a1e"),
    "module": ("#e9e3f6", "#7d62b5"),
    "classifier": ("#dff2da", "#4f9142"),
}
"""Fill and border of each kind of box."""


def write(drawing: Drawing) -> str:
    """Returns a drawing as the text of an SVG file."""
    width, height = _number(drawing.width), _number(drawing.height)
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": width,
            "height": height,
            "role": "img",
            "font-family": _FONTS,
        },
    )
    ElementTree.SubElement(root, "title").text = drawing.title
    ElementTree.SubElement(root, "desc").text = drawing.description
    ElementTree.SubElement(root, "rect", {"width": width, "height": height, "fill": "#ffffff"})
    for shape in drawing.shapes:
        if isinstance(shape, Text):
            _text(root, shape)
        elif isinstance(shape, Line):
            _line(root, shape)
        else:
            _box(root, shape)
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _text(root: ElementTree.Element, text: Text) -> None:
    attributes = {
        "x": _number(text.x),
        "y": _number(text.y),
        "font-size": str(text.size),
        "fill": text.ink,
    }
    if text.anchor != "start":
        attributes["text-anchor"] = text.anchor
    if text.bold:
        attributes["font-weight"] = "600"
    ElementTree.SubElement(root, "text", attributes).text = text.text


def _box(root: ElementTree.Element, box: Box) -> None:
    group = ElementTree.SubElement(root, "g")
    if box.title:
        ElementTree.SubElement(group, "title").text = box.title
    fill, border = _COLOURS[box.colour]
    attributes = {
        "x": _number(box.x),
        "y": _number(box.y),
        "width": _number(box.width),
        "height": _number(box.height),
        "rx": _number(box.width / 2 if box.round else 4),
        "fill": "none" if box.frame else fill,
        "stroke": border,
    }
    if box.frame:
        attributes |= {"stroke-dasharray": "5 4"}
    ElementTree.SubElement(group, "rect", attributes)
    for text in box.texts:
        _text(group, text)


def _line(root: ElementTree.Element, line: Line) -> None:
    points = list(line.points)
    if line.arrow:
        tip, back, head = _arrow(points[-2], points[-1])
        points[-1] = back
        ElementTree.SubElement(root, "path", {"d": _path([tip, *head]) + "Z", "fill": _LINE})
    attributes = {"d": _path(points), "fill": "none", "stroke": _LINE, "stroke-width": "1.2"}
    if line.dashed:
        attributes["stroke-dasharray"] = "5 4"
    ElementTree.SubElement(root, "path", attributes)


def _arrow(start: Point, tip: Point) -> tuple[Point, Point, list[Point]]:
    """Returns an arrow's tip, the end of its line, and the two back corners of its head."""
    length, half = 7.0, 3.4
    dx = (tip[0] > start[0]) - (tip[0] < start[0])
    dy = (tip[1] > start[1]) - (tip[1] < start[1])
    back = (tip[0] - dx * length, tip[1] - dy * length)
    corners = [(back[0] + side * dy * half, back[1] + side * dx * half) for side in (1, -1)]
    return tip, back, corners


def _path(points: list[Point]) -> str:
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

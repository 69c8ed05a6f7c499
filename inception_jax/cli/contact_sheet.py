"""Draws many small pictures on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from inception_jax.fonts import Fonts

_SIDE, _GAP, _LINE = 168, 8, 15  # pixels


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[Sequence[str]]
) -> Image.Image:
    """Draws pictures in rows on a new image, each with its caption below it.

    Args:
        pictures: pictures of any sizes; each is shrunk to fit into a square of 168 x 168 pixels.
        captions: lines of text for each picture. Lines that are too long are truncated.
    """
    columns = max(1, min(len(pictures), round(math.sqrt(1.6 * len(pictures)))))
    lines = max(map(len, captions), default=0)
    cell = _SIDE + _GAP, _SIDE + _GAP + lines * _LINE + _GAP
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
    draw = ImageDraw.Draw(page)
    fonts = Fonts(12, [text for texts in captions for text in texts])
    for i, (picture, texts) in enumerate(zip(pictures, captions, strict=True)):
        left, top = _GAP + i % columns * cell[0], _GAP + i // columns * cell[1]
        small = picture.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        page.paste(small, (left + (_SIDE - small.width) // 2, top + (_SIDE - small.height) // 2))
        for line, text in enumerate(texts):
            at = left, top + _SIDE + 3 + line * _LINE
            fonts.draw(draw, at, _fitted(text, fonts))
    return page


def _fitted(text: str, fonts: Fonts) -> str:
    if fonts.length(text) <= _SIDE:
        return text
    while text and fonts.length(text + "…") > _SIDE:
        text = text[:-1]
    return text + "…"

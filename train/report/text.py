"""Prepares class names for plots: shortens them, and finds fonts for their scripts.

Characters that no installed font has are escaped. No name is interpreted as a formula.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from PIL import ImageFont

from inception_jax import fonts

_OWN = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


def drawable(names: Sequence[str], longest: int) -> list[str]:
    """Rewrites names so that matplotlib can draw them, and enables the fonts that they need.

    Args:
        names: names of classes.
        longest: largest number of characters of a name. Longer names are truncated.

    Returns:
        The names, in the same order. Unprintable characters, and those that no installed font
        has, are escaped.
    """
    paths, missing = fonts.fallbacks(names, ImageFont.truetype(str(_OWN), 16))
    families = [_added(str(path)) for path in paths]
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", *families]
    matplotlib.rcParams["text.parse_math"] = False  # a name may have dollars
    fonts.say_missing(missing)
    return [fonts.escaped(_short(name, longest), missing) for name in names]


@functools.cache
def _added(path: str) -> str:
    """Adds a font to matplotlib, and returns the font's name.

    Matplotlib caches its list of fonts, which may lack this one.
    """
    known = len(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(path)
    return font_manager.fontManager.ttflist[known].name


def _short(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"

"""Finds fonts for text in any script: installed fonts supply the characters that a font lacks."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
# Font families for many scripts, best first, by the beginnings of their file names.
_FAMILIES = (
    "dejavusans.", "notosans-", "notosanscjk", "notosans", "sourcehansans", "pingfang", "hiragino",
    "msyh", "meiryo", "malgun", "segoeui", "arialunicode", "arial unicode", "wqy",
    "droidsansfallback", "freesans.", "unifont",
)  # fmt: skip
_UNLIKELY = ("bold", "italic", "oblique", "light", "mono", "emoji", "black", "thin", "medium")
_ENDINGS = (".ttf", ".ttc", ".otf")
_NO_CHARACTER = "\U0010fffe"  # a code point that no font has


def fallbacks(text: Iterable[str], has: Any) -> tuple[list[Path], frozenset[str]]:
    """Finds installed fonts with the characters that a font lacks.

    Args:
        text: lines of text to draw.
        has: font that lacks characters, opened by Pillow.

    Returns:
        The paths of the fonts, and the characters that no installed font has.
    """
    wanted = {char for line in text for char in line if not char.isspace()}
    missing = {char for char in wanted if not _has(has, char)}
    paths: list[Path] = []
    for path in _installed() if missing else ():
        font = _opened(path, 16)
        found = set() if font is None else {char for char in missing if _has(font, char)}
        if found:
            paths.append(path)
            missing -= found
        if not missing:
            break
    return paths, frozenset(missing)


def escaped(text: str, missing: Collection[str]) -> str:
    """Returns a string with escapes such as \\u4e2d in place of some characters.

    These are the characters in `missing` and those that cannot be printed, such as line breaks.
    """
    return "".join(
        char.encode("unicode_escape").decode()
        if char in missing or not char.isprintable()
        else char
        for char in text
    )


def say_missing(missing: Collection[str]) -> None:
    """Prints on standard error that no installed font has these characters.

    Repeated calls with the same characters print nothing.
    """
    if missing:
        _say("".join(sorted(missing)))


class Fonts:
    """Pillow's default font, with installed fonts for the characters that it lacks.

    Args:
        size: size of the fonts, in pixels.
        texts: all strings that will be drawn.
    """

    def __init__(self, size: int, texts: Sequence[str]) -> None:
        first = ImageFont.load_default(size)
        paths, self._missing = fallbacks(texts, first)
        self._fonts: list[Any] = [first, *(_opened(path, size) for path in paths)]
        say_missing(self._missing)

    def length(self, text: str) -> float:
        """Returns the width of a string in pixels."""
        return sum(font.getlength(part) for font, part in self._runs(text))

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str) -> None:
        """Draws a line of text in black, with its top left corner at `at`."""
        x, y = at
        base = y + self._fonts[0].getmetrics()[0]
        for font, part in self._runs(text):
            draw.text((x, base), part, fill="black", font=font, anchor="ls")
            x += font.getlength(part)

    def _runs(self, text: str) -> Iterator[tuple[Any, str]]:
        """Yields parts of a string, each with a font that has its characters."""
        part, current = "", self._fonts[0]
        for char in escaped(text, self._missing):
            able = (f for f in self._fonts if char.isspace() or _has(f, char))
            font = next(able, self._fonts[0])
            if font is not current and part:
                yield current, part
                part = ""
            part, current = part + char, font
        if part:
            yield current, part


def _has(font: Any, char: str) -> bool:
    return _glyph(font, char) != _glyph(font, _NO_CHARACTER)


@functools.lru_cache(maxsize=10_000)
def _glyph(font: Any, char: str) -> bytes:
    mask = font.getmask(char)
    return bytes(mask) + repr(mask.size).encode()


def _opened(path: Path, size: int) -> Any:
    try:
        return ImageFont.truetype(path, size)
    except OSError:  # a bitmap font, or a damaged file
        return None


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Returns the paths of installed fonts that cover many scripts, best first."""
    found = []
    for folder in _FOLDERS:
        for parent, _, names in os.walk(os.path.expanduser(folder)):
            for name in names:
                low = name.lower()
                rank = next((i for i, family in enumerate(_FAMILIES) if low.startswith(family)), -1)
                if rank >= 0 and low.endswith(_ENDINGS) and not any(w in low for w in _UNLIKELY):
                    found.append((rank, len(name), Path(parent, name)))
    return tuple(path for *_, path in sorted(found))


@functools.cache
def _say(characters: str) -> None:
    shown = escaped(characters[:10], characters) + ("..." if len(characters) > 10 else "")
    print(
        f"no installed font has {shown}: pictures show these characters as escapes (Noto Sans has "
        "most scripts)",
        file=sys.stderr,
    )

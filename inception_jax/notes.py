"""Summarises notes on many images in a few lines, and makes names safe to print."""

from __future__ import annotations

from typing import Any


def printable(name: Any) -> str:
    r"""Returns a name as text that is safe to print on a terminal.

    Characters that cannot be printed, such as line breaks, are escaped as in Python: `\n`. Bytes of
    a path that are not UTF-8 are escaped too: `\xff`.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in str(name))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python represents a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class Counts:
    """Counts files or images by kind, for messages that name one example of each kind.

    A kind is a text, such as ".txt" for skipped files, or "16-bit grey" for images that were
    converted. The first name of a kind is the example.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, name: Any) -> None:
        """Adds one to the count of a kind; `name` is the file or image, a possible example."""
        count, first = self._kinds.get(kind, (0, str(name)))
        self._kinds[kind] = count + 1, first

    def update(self, other: Counts) -> None:
        """Adds the counts of `other` to this object, in place."""
        for kind, (count, first) in other._kinds.items():
            before, earlier = self._kinds.get(kind, (0, first))
            self._kinds[kind] = before + count, earlier

    @property
    def total(self) -> int:
        """The number of counted names."""
        return sum(count for count, _ in self._kinds.values())

    def lines(self) -> list[str]:
        """Returns a line for each kind, such as "16-bit grey: 3 images (such as a.png)".

        The most frequent kind comes first.
        """
        return [
            f"{kind}: {count} image{'s' if count > 1 else ''} ({_example(count, first)})"
            for kind, count, first in self._ordered()
        ]

    def __str__(self) -> str:
        """Returns one line for all kinds, such as "8 .txt (such as a.txt), 1 .gif (b.gif)".

        The most frequent kind comes first.
        """
        return ", ".join(
            f"{count} {kind} ({_example(count, first)})" for kind, count, first in self._ordered()
        )

    def _ordered(self) -> list[tuple[str, int, str]]:
        items = sorted(self._kinds.items(), key=lambda item: -item[1][0])
        return [(kind, count, first) for kind, (count, first) in items]


def _example(count: int, first: str) -> str:
    return f"{'such as ' if count > 1 else ''}{printable(first)}"

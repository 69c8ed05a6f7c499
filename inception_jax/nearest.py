"""Suggests known words for a misspelt or unknown word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping


def nearest(
    word: str,
    known: Iterable[str],
    others: Mapping[str, str | tuple[str, ...]] | None = None,
    count: int = 3,
) -> list[str]:
    """Returns the known words that are most similar to a word, the most likely first.

    Case, punctuation and spaces are ignored.

    Args:
        word: the unknown word.
        known: the valid words.
        others: words of other programs, each mapped to the known words that it means. These known
            words have priority over words that only look similar.
        count: maximum number of results.
    """
    plain = _plain(word)
    by_plain: dict[str, str] = {}
    for name in known:
        by_plain.setdefault(_plain(name), name)
    found: list[str] = [by_plain[plain]] if plain in by_plain else []
    for other, meant in (others or {}).items():
        if plain and _plain(other) == plain:
            meant = (meant,) if isinstance(meant, str) else meant
            found += [word for word in meant if word in by_plain.values()]
    if not found:
        close = difflib.get_close_matches(plain, by_plain, n=count, cutoff=0.7)
        begun = [p for p in by_plain if len(plain) > 2 and (p.startswith(plain) or plain in p)]
        found = [by_plain[p] for p in (*close, *sorted(begun, key=len))]
    return list(dict.fromkeys(found))[:count]


def did_you_mean(
    word: str,
    known: Iterable[str],
    others: Mapping[str, str | tuple[str, ...]] | None = None,
    prefix: str = "",
) -> str:
    """Returns "; did you mean X?" for the end of a message; empty if no word is similar.

    Args:
        word: see `nearest`.
        known: see `nearest`.
        others: see `nearest`.
        prefix: text before each suggested word, such as "--".
    """
    words = [prefix + name for name in nearest(word, known, others)]
    if not words:
        return ""
    *most, last = words
    return f"; did you mean {', '.join(most)} or {last}?" if most else f"; did you mean {last}?"


def _plain(word: str) -> str:
    return re.sub(r"[\W_]+", "", word).lower()

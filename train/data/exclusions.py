"""Reads lists of test images to leave out."""

from __future__ import annotations

import re
from pathlib import Path

from inception_jax.text_files import read_lines
from train.errors import UsageError

_VALIDATION_IMAGES = 50_000


def read_exclusions(path: Path) -> frozenset[str]:
    """Reads a list of test images to leave out, such as the blacklist of ImageNet's devkit.

    Args:
        path: a text file. A line is either a file name, with or without folders and extension, or
            one or more numbers, separated by blanks, commas or semicolons. The number n means
            `ILSVRC2012_val_n`. Empty lines and lines that start with "#" are ignored.

    Returns:
        The set of file names, without folders and extension.

    Raises:
        UsageError: if the file cannot be read, see `text_files.read_text`; if it has no entries; if
            a line has several names, or a number outside 1 to 50,000.
    """
    return frozenset(
        _entry_name(entry, f"{path}, line {number}")
        for number, text in read_lines(path, UsageError)
        for entry in _entries(text, f"{path}, line {number}")
    )


def base_name(name: str) -> str:
    """Returns an example's name without folders and extension."""
    return Path(name).stem


def _entries(text: str, where: str) -> list[str]:
    """Returns the entries of a line: all its numbers, or one file name.

    A file name may contain blanks and commas. `where` names the line in errors.

    Raises:
        UsageError: if the line has several names.
    """
    parts = re.split(r"[;,\s]+", text)
    if all(part.isdecimal() for part in parts):
        return parts
    if ";" in text or "\t" in text:
        raise UsageError(f"{where}: {text!r} is more than a name: write one image on each line")
    return [text.strip("\"'")]


def _entry_name(entry: str, where: str) -> str:
    if not entry.isdecimal():
        return base_name(entry)
    if not 1 <= int(entry) <= _VALIDATION_IMAGES:
        raise UsageError(f"{where}: {entry} is not among the images 1 to {_VALIDATION_IMAGES}")
    return f"ILSVRC2012_val_{int(entry):08d}"

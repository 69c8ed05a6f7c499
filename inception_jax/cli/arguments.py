"""Command-line arguments and argument types that several commands share."""

from __future__ import annotations

import argparse

from inception_jax.parser import whole_number


def add_no_head(parser: argparse.ArgumentParser) -> None:
    """Adds `--no-head`, for files whose classifier does not fit the network."""
    parser.add_argument(
        "--no-head",
        action="store_true",
        help="ignore the classifier, or whatever the file has in its place: the network returns "
        "pooled features",
    )


def positive_int(text: str) -> int:
    """Parses an integer of at least 1; for other text, raises `argparse.ArgumentTypeError`."""
    number = whole_number(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def image_size(text: str) -> tuple[int, int]:
    """Parses "N" or "HxW" as height and width, in pixels.

    Raises:
        argparse.ArgumentTypeError: if the text has another form.
    """
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"must be N or HxW, not {text!r}")
    return int(sides[0]), int(sides[-1])

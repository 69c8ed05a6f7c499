"""`inception-jax inspect`: prints what a weight file contains."""

from __future__ import annotations

import argparse

from inception_jax.weights.inspection import inspect

EXAMPLES = """
inception-jax inspect model_best.pth.tar
inception-jax inspect checkpoints/   # a folder with one weight file
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument(
        "file",
        help="weight file, or folder with one; FILE#NAME selects one of several networks in it",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the file's format, layout and network.

    If no network fits, also prints how the file differs from the most similar network.
    """
    found = inspect(args.file)
    print(found.source)
    facts = {title: text for title, text in found.facts.items() if text}
    width = max(map(len, facts), default=0)
    for title, text in facts.items():
        print(f"  {title:{width}}  {text}")
    if found.differences:
        print("  differences from it:")
        for line in found.differences:
            print(f"    {line}")
    return 0

"""`inception-jax summary`: prints a network's stages as a table."""

from __future__ import annotations

import argparse

import inception_jax as ij
from inception_jax.cli.arguments import image_size

EXAMPLES = """
inception-jax summary inception_v3
inception-jax summary xception --image-size 224
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("name", help="network or network.tag, see `inception-jax list`")
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N|HxW",
        help="size of the image, in pixels; default: the network's default",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the table of the network's stages."""
    print(ij.summary(args.name, args.image_size))
    return 0

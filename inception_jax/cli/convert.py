"""`inception-jax convert`: weights from any layout to another."""

from __future__ import annotations

import argparse

from inception_jax.create import model_for
from inception_jax.weights.convert import FORMATS, save_as


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("source", metavar="SRC", help="weight file")
    parser.add_argument(
        "target", metavar="DST", help=".safetensors, .pth, or for Keras .weights.h5 or .h5"
    )
    parser.add_argument("--arch", required=True, help="network or network.tag of SRC")
    parser.add_argument(
        "--to",
        choices=FORMATS,
        help="whose layout; default: ours for .safetensors, reference_torch's for .pth, Keras' for "
        ".h5",
    )


def run(args: argparse.Namespace) -> int:
    """Loads the weights, writes them in the other layout, and prints what that changed."""
    for note in save_as(model_for(args.arch, args.source), args.target, args.to):
        print(f"note: {note}")
    print(f"wrote {args.target}")
    return 0

"""`inception-jax convert`: converts weights from any known layout to another layout."""

from __future__ import annotations

import argparse

from inception_jax.cli.arguments import add_no_head
from inception_jax.create import NO_HEAD, model_of
from inception_jax.weights.other_formats import FORMATS, check_writable, save_as

EXAMPLES = """
inception-jax convert runs/xception-fashion_mnist trained.pth
inception-jax convert xception.h5 xception.safetensors --arch xception.keras_in1k
inception-jax convert inceptionv4.safetensors v4.pth --arch inception_v4.tf_in1k --to timm
inception-jax convert byol.pt#target v3.safetensors --arch inception_v3 --no-head
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="weight file to read, or folder of a training run; FILE#NAME selects one of several "
        "networks in a file",
    )
    parser.add_argument(
        "target",
        metavar="DST",
        help="file to write: .safetensors or .pth; for Keras .weights.h5 or .h5",
    )
    parser.add_argument(
        "--arch", metavar="NAME", help="network or network.tag of SRC, if the file does not name it"
    )
    add_no_head(parser)
    parser.add_argument(
        "--to",
        choices=FORMATS,
        help="layout to write; default: inception_jax's for .safetensors, reference_torch's for "
        ".pth, Keras' for .h5",
    )


def run(args: argparse.Namespace) -> int:
    """Loads weights, writes them in the target layout, and prints what was changed to fit it."""
    check_writable(args.target, args.to)
    model = model_of(args.arch, args.source, **(NO_HEAD if args.no_head else {}))
    for note in save_as(model, args.target, args.to):
        print(f"note: {note}")
    print(f"wrote {args.target}")
    return 0

"""`inception-jax export`: a network as a program, ONNX or StableHLO."""

from __future__ import annotations

import argparse

from inception_jax import serving
from inception_jax.cli.arguments import image_size
from inception_jax.create import model_for
from inception_jax.registry import model_info


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("name", help="a network or network.tag, see list")
    parser.add_argument("--weights", help="weight file; default: the tag's published one")
    parser.add_argument("--format", required=True, choices=serving.FORMATS, help="of the file")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: NAME.FORMAT")
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N|HxW",
        help="of the images, in pixels; default: the network's own",
    )
    parser.add_argument(
        "--normalise",
        action="store_true",
        help="take RGB pixels as uint8 and normalise them inside the program",
    )
    parser.add_argument(
        "--embedding", action="store_true", help="return the pooled features, not the logits"
    )


def run(args: argparse.Namespace) -> int:
    """Checks path and size before the weights are loaded, then writes the program."""
    info = model_info(args.name)
    path = serving.check_target(args.output or f"{args.name}.{args.format}", args.format)
    size = serving.check_size(args.image_size or info.input_size, info.min_size)
    serving.export(
        model_for(args.name, args.weights or True),
        path,
        args.format,
        image_size=size,
        normalise=args.normalise,
        embedding=args.embedding,
    )
    print(f"wrote {path}")
    return 0

"""`inception-jax export`: writes a network as an ONNX or StableHLO program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from inception_jax import serving
from inception_jax.cli.arguments import image_size
from inception_jax.create import load, model_for
from inception_jax.models import model_info
from inception_jax.nn.stages import feature_info

EXAMPLES = """
inception-jax export runs/xception-fashion_mnist       # a network trained here
inception-jax export inception_v3.tf_in1k -o v3.onnx   # published weights
inception-jax export runs/xception-fashion_mnist -o x.stablehlo --normalise
inception-jax export runs/xception-fashion_mnist --stages all --heat   # with maps and heat maps
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument(
        "source",
        metavar="FILE|NAME",
        help="weight file, folder of a training run, or network.tag, see `inception-jax list`",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="weight file for NAME; default: the published one"
    )
    parser.add_argument(
        "--format",
        choices=serving.FORMATS,
        help="format of the program; default: the suffix of -o, else onnx",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="file to write; default: FILE.onnx or NAME.onnx"
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N|HxW",
        help="size of the images, in pixels; default: the network's default",
    )
    parser.add_argument(
        "--normalise",
        action="store_true",
        help="take pixels as uint8, RGB or grey, and normalise them inside the program",
    )
    parser.add_argument(
        "--embedding", action="store_true", help="return the pooled features, not the logits"
    )
    parser.add_argument(
        "--stages",
        type=lambda text: tuple(name.strip() for name in text.split(",")),
        default=(),
        metavar="NAME,NAME",
        help="return the feature maps of these stages too, see `inception-jax summary`; all: every "
        "stage",
    )
    parser.add_argument(
        "--heat",
        action="store_true",
        help="return a Grad-CAM heat map of every class at the last stage too; only for networks "
        "whose classifier is one linear layer",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the ONNX or StableHLO program. The path is checked before the weights are loaded."""
    source = Path(args.source)
    from_file = source.exists()
    if from_file and args.weights:
        raise ValueError(f"{source} is a file or folder itself: leave out --weights")
    format: Any = args.format or Path(args.output or "").suffix[1:] or "onnx"
    stem = (source.resolve() if from_file else source).name.removesuffix(".safetensors")
    path = serving.check_target(args.output or f"{stem}.{format}", format)
    if not from_file:  # check the name and the size before anything is downloaded
        info = model_info(args.source)
        serving.check_size(args.image_size or info.input_size, info.min_size)
    model = load(source) if from_file else model_for(args.source, args.weights or True)
    serving.export(
        model,
        path,
        format,
        image_size=args.image_size,
        normalise=args.normalise,
        embedding=args.embedding,
        stages=[s.name for s in feature_info(model)] if args.stages == ("all",) else args.stages,
        heat=args.heat,
    )
    print(f"wrote {path}")
    return 0

"""`inception-jax certify`: compares what JAX and PyTorch compute with the weights of a file."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from inception_jax.certificate import as_page, certify
from inception_jax.cli.arguments import add_no_head
from inception_jax.outputs import atomic_write, check_target

EXAMPLES = """
inception-jax certify runs/xception/weights.safetensors
inception-jax certify v3.pth --arch inception_v3.tv_in1k   # if the file does not name it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("file", help="weight file; FILE#NAME selects one of several networks in it")
    parser.add_argument("--arch", help="network or network.tag, if the file does not name it")
    parser.add_argument(
        "--image-size",
        type=int,
        help="side of the test images, in pixels; default: the network's default",
    )
    add_no_head(parser)


def run(args: argparse.Namespace) -> int:
    """Writes a certificate as JSON and as a page: FILE.certificate.json and FILE.certificate.md.

    FILE is the path of the weight file, `args.file`.

    Returns:
        The exit code: 0 if the network in JAX agrees with its PyTorch twin, else 1. They agree if
        the feature maps of every stage, and the logits, differ by at most 1e-4 in float32 and 1e-10
        in float64, relative to the largest absolute value in PyTorch; see `certificate.TOLERANCE`.
    """
    stem = Path(args.file)
    targets = [stem.with_name(f"{stem.name}.certificate{ending}") for ending in (".json", ".md")]
    for target in targets:
        check_target(target)
    found = certify(args.file, args.arch, args.image_size, head=not args.no_head)
    texts = (json.dumps(dataclasses.asdict(found), indent=2, default=str) + "\n", as_page(found))
    for target, text in zip(targets, texts, strict=True):
        with atomic_write(target) as partial:
            partial.write_text(text)
    for dtype, stages in found.distances.items():
        print(f"{dtype}: at most {max(stages.values()):.1e}, {stages['logits']:.1e} at the logits")
    print(f"wrote {targets[0]} and {targets[1].name}")
    return 0 if found.passed else 1

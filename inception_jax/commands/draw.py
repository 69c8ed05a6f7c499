"""`inception-jax draw`: a network, or a module of it, as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from inception_jax import drawing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("name", help="a network or network.tag, see list")
    parser.add_argument(
        "--module",
        help="a stage or a module, such as Mixed_6b or block35.0; default: the whole network",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE.svg", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    path = Path(args.output)
    if path.suffix.lower() != ".svg":
        raise ValueError(f"drawings are SVG: {path} must end in .svg")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} to write {path.name} into")
    path.write_text(drawing.draw(args.name, args.module), encoding="utf-8")
    print(f"wrote {path}")
    return 0

"""`inception-jax draw`: draws a network, or one of its modules, as SVG."""

from __future__ import annotations

import argparse

from inception_jax import drawing
from inception_jax.outputs import atomic_write, check_target

EXAMPLES = """
inception-jax draw inception_v3 -o inception_v3.svg
inception-jax draw inception_v3 --module Mixed_6b -o Mixed_6b.svg
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("name", help="network or network.tag, see `inception-jax list`")
    parser.add_argument(
        "--module",
        help="stage or module, such as Mixed_6b or block35.0; default: the whole network",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE.svg", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Writes the drawing."""
    path = check_target(args.output, (".svg",), what="drawings")
    with atomic_write(path) as partial:
        partial.write_text(drawing.draw(args.name, args.module), encoding="utf-8")
    print(f"wrote {path}")
    return 0

"""`inception-jax list`: names of networks and of published weights."""

from __future__ import annotations

import argparse

from inception_jax.models import list_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help="such as 'inception*'")


def run(args: argparse.Namespace) -> int:
    """Prints each network with its tags, or else each tag, that fits the pattern."""
    names = list_models(args.pattern)
    if names:
        for name in names:
            tags = [full.partition(".")[2] for full in list_models(name, tags=True)]
            print(" ".join([name, *tags]))
        return 0
    names = list_models(args.pattern, tags=True)
    if not names:
        raise ValueError(f"no network is called {args.pattern!r}")
    print("\n".join(names))
    return 0

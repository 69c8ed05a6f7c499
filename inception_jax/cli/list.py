"""`inception-jax list`: prints the names of networks and of published weights."""

from __future__ import annotations

import argparse

from inception_jax.names import TAGS, matching
from inception_jax.nearest import did_you_mean

EXAMPLES = """
inception-jax list
inception-jax list "inception*"       # matching networks, with their tags
inception-jax list "*.tf_in1k"        # matching tags
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument(
        "pattern", nargs="?", default="*", help="shell pattern of names, such as 'inception*'"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the networks that match the pattern, with their tags.

    If no network matches, prints the tags that match.
    """
    names = matching(args.pattern)
    lines = [" ".join([name, *TAGS[name]]) for name in names] or matching(args.pattern, tags=True)
    if not lines:
        raise ValueError(f"no network is called {args.pattern!r}{did_you_mean(args.pattern, TAGS)}")
    print("\n".join(lines))
    return 0

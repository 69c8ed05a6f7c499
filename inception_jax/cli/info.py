"""`inception-jax info`: prints the facts about a network or its weights."""

from __future__ import annotations

import argparse
import dataclasses

from inception_jax.models import model_info
from inception_jax.weights.published import PUBLISHED

EXAMPLES = """
inception-jax info inception_v3
inception-jax info inception_v3.fid   # a tag: size, normalisation, URL of the weights
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("name", help="network or network.tag, see `inception-jax list`")


def run(args: argparse.Namespace) -> int:
    """Prints the fields of `model_info`, the stages and the URL of the weights."""
    info = model_info(args.name)
    facts = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    facts["num_params"] = f"{info.num_params:,}"
    facts["readings"] = ", ".join(f"{k}={v!r}" for k, v in info.readings.items()) or "defaults"
    facts["features"] = "  ".join(
        f"{f.name} {f.channels} /{f.reduction}{' *' if f.tap else ''}" for f in info.feature_info
    )
    facts["aux_heads"] = ", ".join(info.aux_heads) or "none"
    if args.name in PUBLISHED:
        facts["weights"] = PUBLISHED[args.name].address
    width = max(map(len, facts))
    for name, value in facts.items():
        if value != "":
            print(f"{name:{width}}  {value}")
    return 0

"""Two ways to faster networks that were measured and are not taken: docs/performance.md.

    python benchmarks/left_out.py

Needs the extra `tpu` and no TPU. Inception-ResNet-v2's modules, in training:

* the 1x1 convolution of concatenated branches as the sum of the branches' own products;
* equal modules in a row as one that is scanned over stacked parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).parent)]

import tpu_estimates as estimates

from inception_jax import ops
from inception_jax.branches import siblings
from inception_jax.layers import Conv
from inception_jax.models.inception_resnet_v2 import Block17, InceptionResNetV2
from inception_jax.rematerialise import rematerialised

Tree = Any
ARCH = "inception_resnet_v2"


@dataclasses.dataclass(frozen=True)
class Options(estimates.Options):
    """Compile what was left out."""

    blocks: int = 10
    """Equal modules in a row."""


def sum_of_products(branches: list[jax.Array], layer: Conv) -> jax.Array:
    """A 1x1 convolution of concatenated branches, without their concatenation."""
    ends = list(itertools.accumulate(branch.shape[-1] for branch in branches[:-1]))
    kernels = jnp.split(layer.rounded(layer.kernel), ends, axis=2)
    products = [ops.conv(x, kernel) for x, kernel in zip(branches, kernels, strict=True)]
    return layer.add(functools.reduce(jnp.add, products), layer.bias)


def without_concatenation(self: Block17, x: jax.Array) -> jax.Array:
    """`Block17.__call__`, but for its projection."""
    branch1x1, branch7x7 = siblings(x, self.branch1x1, self.branch7x7_1)
    branch7x7 = self.branch7x7_3(self.branch7x7_2(branch7x7))
    return jax.nn.relu(x + self.scale * sum_of_products([branch1x1, branch7x7], self.up))


def several(count: int, form: str, options: Options) -> estimates.Program:
    """Output and gradients of block17 in a row, in training."""
    dtype = jnp.dtype(options.dtype)
    model = nnx.eval_shape(lambda: InceptionResNetV2(dtype=dtype, rngs=nnx.Rngs(0)))
    block = nnx.view(model.block17[0], use_running_average=False)
    graphdef, params, stats = nnx.split(block, nnx.Param, nnx.BatchStat)
    one = (nnx.to_pure_dict(params), nnx.to_pure_dict(stats))

    def apply(state: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        merged = nnx.merge(graphdef, *state)
        return merged(x), nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

    def in_a_row(states: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        new = []
        for state in states:
            x, stats = apply(state, x)
            new.append(stats)
        return x, new

    def scanned(states: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        body = rematerialised(apply) if "recomputed" in form else apply
        x, new = jax.lax.scan(lambda x, state: body(state, x), x, stacked)
        return x, [jax.tree.map(lambda leaf, i=i: leaf[i], new) for i in range(count)]

    row = scanned if "scanned" in form else in_a_row
    row = rematerialised(row) if form == "in a row, recomputed" else row

    def step(state: Tree, x: jax.Array) -> tuple[Tree, Tree]:
        params, stats = zip(*state, strict=True)
        call = lambda params, x: row(list(zip(params, stats, strict=True)), x)  # noqa: E731
        y, pull, stats = jax.vjp(call, params, x, has_aux=True)
        return (pull(y), stats), ()

    shape = (options.images, 17, 17, model.block17[0].up.kernel.shape[-1])
    return step, [one] * count, (jax.ShapeDtypeStruct(shape, dtype),)


def rows(options: Options) -> Iterator[str]:
    """The lines of the table."""
    quick = functools.partial(estimates.compiled, options=options, effort="quick")
    joined = Block17.__call__
    for form, call in (("concatenated", joined), ("sum of products", without_concatenation)):
        Block17.__call__ = call
        made = estimates.module(f"{ARCH}.block17.0", "rewritten", options)
        yield line(quick("block17", form, made), True)
    Block17.__call__ = joined
    for form in ("in a row", "scanned", "in a row, recomputed", "scanned, recomputed"):
        made = several(options.blocks, form, options)
        # Of a loop the compiler counts the body once, so its times say nothing here.
        found = quick(f"{options.blocks} x block17", form, made)
        yield line(found, "scanned" not in form)


def line(row: estimates.Row, timed: bool) -> str:
    """A line of the table."""
    time = f"{row.seconds * 1e3:.2f} | {row.bytes / 1e9:.2f}" if timed else "- | -"
    return (
        f"| {row.what} | {row.form} | {time} | {row.temporaries / 1e9:.3f} "
        f"| {row.compile_seconds:.0f} |"
    )


def main() -> None:
    """Compiles, prints and writes the table."""
    options = tyro.cli(Options, description=__doc__)
    head = "| program | form | roofline, ms | GB | temporaries, GB | compiled in, s |"
    text = "\n".join([head, "|---|---|---|---|---|---|", *rows(options)])
    about = f"{options.images} images a chip, {options.dtype}, {options.topology}."
    estimates.show("left out", "Measured and left out", about, text)


if __name__ == "__main__":
    main()

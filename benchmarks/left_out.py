"""Ways to faster networks that were measured and are not taken: docs/performance.md.

    python benchmarks/left_out.py

Needs the extra `tpu` and no TPU. In training:

* the 1x1 convolution of concatenated branches as the sum of the branches' own products;
* equal modules in a row as one that is scanned over stacked parameters;
* a first convolution whose images have five channels of zeros more, or whose 2x2 pixels are one
  with twelve channels;
* depthwise convolutions as sums of shifted slices, as on CPUs.
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

from inception_jax.models.inception_resnet_v2 import Block17, InceptionResNetV2
from inception_jax.nn import ops
from inception_jax.nn.branches import siblings
from inception_jax.nn.layers import Conv
from inception_jax.nn.remat import rematerialised

Tree = Any
ARCH = "inception_resnet_v2"
# Side of the image, of the window, channels and padding of the first convolution, with stride 2.
FIRST: dict[str, tuple[int, int, int, ops.Padding]] = {
    "inception_v1": (224, 7, 64, "same"),
    "inception_v3": (299, 3, 32, "valid"),
}
# Side and channels of Xception's and InceptionNeXt's maps.
DEPTHWISE = ((37, 728), (19, 728), (28, 24), (14, 48))
FORMS: dict[ops.Form, str] = {"native": "grouped", "shifted": "shifted slices"}


@dataclasses.dataclass(frozen=True)
class Options(estimates.Options):
    """Compile what was left out."""

    blocks: int = 10
    """Equal modules in a row."""


def sum_of_products(branches: list[jax.Array], layer: Conv) -> jax.Array:
    """A 1x1 convolution of concatenated branches, without their concatenation."""
    ends = list(itertools.accumulate(branch.shape[-1] for branch in branches[:-1]))
    kernels = jnp.split(layer.kernel_for_ops(), ends, axis=2)
    products = [ops.conv(x, kernel) for x, kernel in zip(branches, kernels, strict=True)]
    return layer.add_bias(functools.reduce(jnp.add, products))


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


def first(form: str, network: str, options: Options) -> estimates.Program:
    """The first convolution of a network, of bytes, and its kernel's gradient."""
    size, window, width, padding = FIRST[network]
    dtype = jnp.dtype(options.dtype)
    convolve = {"as it is": ops.conv, "8 channels": eight_channels, "2x2 pixels": pixels_of_2x2}

    def step(kernel: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = images.astype(dtype) / 127.5 - 1
        y, pull = jax.vjp(lambda kernel: convolve[form](x, kernel, 2, padding), kernel)
        return pull(y)[0], y

    kernel = jax.ShapeDtypeStruct((window, window, 3, width), jnp.float32)
    return step, kernel, (jax.ShapeDtypeStruct((options.images, size, size, 3), jnp.uint8),)


def eight_channels(x: jax.Array, kernel: jax.Array, stride: int, padding: ops.Padding) -> jax.Array:
    """A convolution of images with five channels of zeros more."""
    more = [(0, 0), (0, 0), (0, 0), (0, 5)]
    return ops.conv(jnp.pad(x, more), jnp.pad(kernel, more[:2] + more[:1:-1]), stride, padding)


def pixels_of_2x2(x: jax.Array, kernel: jax.Array, stride: int, padding: ops.Padding) -> jax.Array:
    """A convolution with stride 2 as one with stride 1 over pixels that are 2x2 of the image."""
    size, window = x.shape[1], kernel.shape[0]
    low, high = ops.pads(size, window, stride, padding)
    out, even = (size + low + high - window) // 2 + 1, window + window % 2
    high = 2 * (out - 1) + even - size - low
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *[(low, high, 0)] * 2, (0, 0, 0)))
    kernel = jnp.pad(kernel, [(0, even - window)] * 2 + [(0, 0)] * 2)
    x = x.reshape(len(x), out + even // 2 - 1, 2, -1, 2, 3).swapaxes(2, 3)
    kernel = kernel.reshape(even // 2, 2, even // 2, 2, 3, -1).swapaxes(1, 2)
    x = x.reshape(*x.shape[:3], 12)
    return ops.conv(x, kernel.reshape(*kernel.shape[:2], 12, -1), 1, "valid")


def depthwise(form: ops.Form, size: int, channels: int, options: Options) -> estimates.Program:
    """A depthwise convolution and its gradients."""
    dtype = jnp.dtype(options.dtype)

    def step(kernel: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        with ops.forced_form(form):
            y, pull = jax.vjp(ops.depthwise_conv, x, kernel)
            dx, dkernel = pull(y)
        return dkernel, dx

    x = jax.ShapeDtypeStruct((options.images, size, size, channels), dtype)
    return step, jax.ShapeDtypeStruct((3, 3, 1, channels), jnp.float32), (x,)


def rows(options: Options) -> Iterator[str]:
    """The lines of the table."""
    quick = functools.partial(estimates.compiled, options=options, effort="quick")
    joined = Block17.__call__
    for form, call in (("concatenated", joined), ("sum of products", without_concatenation)):
        Block17.__call__ = call
        made = estimates.module(f"{ARCH}.block17.0", "rewritten", options)
        yield line(quick("block17", form, made))
    Block17.__call__ = joined
    for form in ("in a row", "scanned", "in a row, recomputed", "scanned, recomputed"):
        made = several(options.blocks, form, options)
        # Of a loop the compiler counts the body once, so its times say nothing here.
        found = quick(f"{options.blocks} x block17", form, made)
        yield line(found, "scanned" not in form)
    for network in FIRST:
        for form in ("as it is", "8 channels", "2x2 pixels"):
            yield line(quick(f"first layer of {network}", form, first(form, network, options)))
    for size, channels in DEPTHWISE:
        for form, name in FORMS.items():
            made = depthwise(form, size, channels, options)
            yield line(quick(f"depthwise 3x3, {size}x{size}x{channels}", name, made))


def line(row: estimates.Row, timed: bool = True) -> str:
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

"""Computes the branches of an Inception module.

With the rewrite `siblings` (see `rewrites`), the first convolutions of several branches are
computed as one. With the rewrite `pools` too, this includes a convolution after an average pool.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Literal, Protocol

import jax
import jax.numpy as jnp

from inception_jax.nn import ops, rewrites
from inception_jax.nn.layers import Conv, ConvBN
from inception_jax.nn.norms import centred_parts

PoolKind = Literal["avg", "max"]


class ConvLayer(Protocol):
    """Protocol of a convolution, `conv`, and the operations after it, such as `layers.ConvBN`."""

    conv: Conv

    def __call__(self, x: jax.Array) -> jax.Array: ...

    def after_conv(self, x: jax.Array) -> jax.Array:
        """Maps `x`, the output of `conv` without its bias, to the layer's output."""
        ...


def siblings(x: jax.Array, *layers: ConvLayer) -> list[jax.Array]:
    """Applies several layers with 1x1 kernels to the same input.

    With the rewrite `siblings` (see `rewrites`), their convolutions are computed as one.

    Returns:
        The output of each layer, in the order of `layers`.
    """
    if not rewrites.enabled("siblings"):
        return [layer(x) for layer in layers]
    return _finish(layers, *_products(x, layers))


def siblings_with_pool(
    x: jax.Array,
    *layers: ConvLayer,
    pooled: ConvLayer,
    pool: PoolKind = "avg",
    count_include_pad: bool = False,
) -> list[jax.Array]:
    """Applies several layers with 1x1 kernels to `x`, and one more to a 3x3 pool of `x`.

    With the rewrite `siblings` (see `rewrites`), the convolutions of `layers` are computed as one.
    With the rewrite `pools`, an average pool is applied after the convolution of `pooled`, not
    before it. With both rewrites and an average pool, all convolutions are computed as one.

    Args:
        x: feature map [n, h, w, c].
        layers: layers with 1x1 kernels, applied to `x`.
        pooled: layer with a 1x1 kernel, applied to the pooled `x`.
        pool: kind of the pool, which has stride 1 and keeps the height and width.
        count_include_pad: see `ops.avg_pool`.

    Returns:
        The outputs of `layers`, then the output of `pooled`.
    """
    if pool == "max":
        return [*siblings(x, *layers), pooled(ops.max_pool(x, 3, 1, "same"))]
    average = functools.partial(
        ops.avg_pool, window=3, stride=1, padding="same", count_include_pad=count_include_pad
    )
    if not rewrites.enabled("pools"):
        return [*siblings(x, *layers), pooled(average(x))]
    # A pool of the convolution's output is the convolution of the pool. A bias would shrink where
    # the pool counts padding, so `after_conv` adds it after the pool.
    if not rewrites.enabled("siblings"):
        return [*siblings(x, *layers), pooled.after_conv(average(pooled.conv.convolve(x)))]
    products, ends = _products(x, (*layers, pooled))
    last = products[..., ends[-1] :]
    return [*_finish(layers, products, ends), pooled.after_conv(average(last))]


def _products(x: jax.Array, layers: Sequence[ConvLayer]) -> tuple[jax.Array, list[int]]:
    """Computes the convolutions of all layers as one, without their biases.

    Returns:
        The outputs of all convolutions, concatenated along the channels, and the channel indices at
        which to split them.
    """
    kernels = [layer.conv.kernel_for_ops() for layer in layers]
    products = ops.conv(x.astype(layers[0].conv.dtype), jnp.concatenate(kernels, axis=-1))
    return products, list(itertools.accumulate(kernel.shape[-1] for kernel in kernels[:-1]))


def _finish(
    layers: Sequence[ConvLayer], products: jax.Array, ends: Sequence[int]
) -> list[jax.Array]:
    parts = jnp.split(products, ends, axis=-1)[: len(layers)]
    normed = [layer for layer in layers if isinstance(layer, ConvBN)]
    means = [norm.mean[...] for layer in normed if (norm := layer.norm_of_batch) is not None]
    if len(means) < len(layers):
        return [layer.after_conv(part) for layer, part in zip(layers, parts, strict=True)]
    batches = centred_parts(products, means)
    return [layer.after_conv(batch) for layer, batch in zip(normed, batches, strict=True)]

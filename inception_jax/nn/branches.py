"""The branches of a module, computed together where `inception_jax.rewrites` says so."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Literal, Protocol

import jax
import jax.numpy as jnp

from inception_jax.nn import ops, rewrites
from inception_jax.nn.layers import Conv, ConvBN
from inception_jax.nn.norms import batch_moments

PoolKind = Literal["avg", "max"]


class ConvLayer(Protocol):
    """A convolution and what follows it: `layers.ConvBN`, `inception_v1.ConvReLU`."""

    conv: Conv

    def __call__(self, x: jax.Array) -> jax.Array: ...

    def finish(self, x: jax.Array) -> jax.Array:
        """Maps the convolution's products to the layer's output."""
        ...


def siblings(x: jax.Array, *layers: ConvLayer) -> list[jax.Array]:
    """Applies layers with 1x1 kernels to one input."""
    if not rewrites.in_use("siblings"):
        return [layer(x) for layer in layers]
    return _finish(layers, *_products(x, layers))


def siblings_with_pool(
    x: jax.Array,
    *layers: ConvLayer,
    pooled: ConvLayer,
    pool: PoolKind = "avg",
    count_include_pad: bool = False,
) -> list[jax.Array]:
    """Applies layers with 1x1 kernels to one input, and `pooled` to its 3x3 pool.

    Returns:
        The outputs of `layers`, then that of `pooled`.
    """
    if pool == "max":
        return [*siblings(x, *layers), pooled(ops.max_pool(x, 3, 1, "same"))]
    average = functools.partial(
        ops.avg_pool, window=3, stride=1, padding="same", count_include_pad=count_include_pad
    )
    if not rewrites.in_use("pools"):
        return [*siblings(x, *layers), pooled(average(x))]
    # An average of products is the product of averages. A bias, were it averaged too, would shrink
    # where the padding counts: `finish` adds it afterwards.
    if not rewrites.in_use("siblings"):
        return [*siblings(x, *layers), pooled.finish(average(pooled.conv.multiply(x)))]
    products, ends = _products(x, (*layers, pooled))
    last = products[..., ends[-1] :]
    return [*_finish(layers, products, ends), pooled.finish(average(last))]


def _products(x: jax.Array, layers: Sequence[ConvLayer]) -> tuple[jax.Array, list[int]]:
    """One convolution for all layers; returns where each layer's channels end, but for the last."""
    kernels = [layer.conv.rounded(layer.conv.kernel) for layer in layers]
    products = ops.conv(x.astype(layers[0].conv.dtype), jnp.concatenate(kernels, axis=-1))
    return products, list(itertools.accumulate(kernel.shape[-1] for kernel in kernels[:-1]))


def _finish(
    layers: Sequence[ConvLayer], products: jax.Array, ends: Sequence[int]
) -> list[jax.Array]:
    parts = jnp.split(products, ends, axis=-1)[: len(layers)]
    counting = [
        (layer, norm)
        for layer in layers
        if isinstance(layer, ConvBN) and (norm := layer.counting) is not None
    ]
    if len(counting) < len(layers):
        return [layer.finish(y) for layer, y in zip(layers, parts, strict=True)]
    # A compiler for TPUs sums whole maps where it convolves them, and parts of one in passes more.
    near = jnp.concatenate([norm.mean[...] for _, norm in counting])
    near = jnp.pad(near, (0, products.shape[-1] - near.size))
    means, variances = (jnp.split(moment, ends) for moment in batch_moments(products, near))
    return [
        layer.finish(part, (mean, variance))
        for (layer, _), part, mean, variance in zip(counting, parts, means, variances, strict=False)
    ]

"""Initial values of kernels, as the papers' TensorFlow code draws them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import nnx

_CUT_DEVIATION = 0.87962566103423978  # of a standard normal distribution, cut at two


def truncated_normal(stddev: float) -> nnx.Initializer:
    """A normal distribution cut at two standard deviations, `tf.truncated_normal_initializer`."""
    return _initializer(_cut_normal, lambda fan_in: stddev)


def scaled_normal(scale: float) -> nnx.Initializer:
    """Of variance `scale` / inputs, `tf.variance_scaling_initializer(scale, mode="fan_in")`."""
    return _initializer(_cut_normal, lambda fan_in: math.sqrt(scale / fan_in) / _CUT_DEVIATION)


def _initializer(draw: Callable[..., jax.Array], factor: Callable[[int], float]) -> nnx.Initializer:
    """An initializer of kernels `(..., in, out)`: `draw` times `factor(fan_in)`.

    A network has kernels of up to a hundred shapes, and a draw compiles for each: twenty seconds
    for Inception V3. JAX's generator counts, so that the first numbers drawn are the same however
    many are drawn, and one program for each power of two does for all shapes.
    """

    def initial(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        size = math.prod(shape)
        upto = (1 << (size - 1).bit_length(),)
        by = factor(math.prod(shape[:-1]))
        numbers = _drawn(key, by, draw=draw, shape=upto, dtype=dtype)
        if isinstance(numbers, jax.core.Tracer):  # within a program, which is compiled anyway
            return numbers[:size].reshape(shape)
        return jax.device_put(np.asarray(numbers)[:size].reshape(shape))

    return initial


@functools.partial(jax.jit, static_argnames=("draw", "shape", "dtype"))
def _drawn(
    key: jax.Array,
    by: float | jax.Array,
    *,
    draw: Callable[..., jax.Array],
    shape: tuple[int, ...],
    dtype: Any,
) -> jax.Array:
    return draw(key, shape, dtype) * jnp.asarray(by, dtype)


def _cut_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.truncated_normal(key, -2, 2, shape, dtype)


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -1)


# TF-slim's `variance_scaling_initializer`: He et al. 2015 with a normal distribution cut at two
# standard deviations. The networks' sources that name another scheme are said at the layer.
conv_kernel = scaled_normal(2.0)
# A depthwise filter is followed by no ReLU of its own, so nothing is halved.
depthwise_kernel = scaled_normal(1.0)
linear_kernel = scaled_normal(1.0)
# Caffe's "xavier" filler: uniform, by the number of inputs alone.
xavier = _initializer(_uniform, lambda fan_in: math.sqrt(3 / fan_in))


class _OneKey:
    def params(self) -> jax.Array:
        return jax.random.key(0)


ONE_KEY: Any = _OneKey()
"""Stands for `nnx.Rngs` where a network is traced and gets no numbers: counting its keys takes jax
a time that grows as their square, five sixths of all for Inception-ResNet-v2."""

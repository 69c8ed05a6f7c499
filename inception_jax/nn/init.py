"""Initial values of kernels, drawn from the distributions of the papers' TensorFlow code."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import nnx

# Standard deviation of a standard normal distribution that is truncated at 2.
_CUT_DEVIATION = 0.87962566103423978


def truncated_normal(stddev: float) -> nnx.Initializer:
    """Returns an initializer: a normal distribution truncated at two standard deviations.

    The distribution is that of `tf.truncated_normal_initializer`: `stddev` is the standard
    deviation before truncation.
    """
    return _Initializer(_cut_normal, _fixed, stddev)


def scaled_normal(scale: float) -> nnx.Initializer:
    """Returns an initializer: a truncated normal distribution of variance `scale` / fan-in.

    The distribution is that of `tf.variance_scaling_initializer(scale, mode="fan_in")`.
    """
    return _Initializer(_cut_normal, _by_inputs, scale)


@dataclasses.dataclass(frozen=True)
class _Initializer:
    """Initializes a kernel `(..., in, out)` with `draw`, multiplied by `factor(parameter, fan_in)`.

    The number of drawn values is rounded up to a power of two, and the surplus is dropped. One
    compiled program then serves many shapes. A network has kernels of up to a hundred shapes, and
    compiling a program for each would take twenty seconds for Inception V3. The kernel's values do
    not change, because JAX's generator is counter-based: the first values are the same however many
    are drawn.

    Initializers with the same fields are equal, so networks that store them have equal graph
    definitions.

    Attributes:
        draw: function of a random key, a shape and a dtype; returns random values.
        factor: function of `parameter` and the fan-in; returns the factor of the random values.
        parameter: number from which `factor` computes, such as a standard deviation.
    """

    draw: Callable[..., jax.Array]
    factor: Callable[[float, int], float]
    parameter: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        size = math.prod(shape)
        upto = (1 << (size - 1).bit_length(),)
        by = self.factor(self.parameter, math.prod(shape[:-1]))
        numbers = _drawn(key, by, draw=self.draw, shape=upto, dtype=dtype)
        if isinstance(numbers, jax.core.Tracer):  # inside a program that is compiled anyway
            return numbers[:size].reshape(shape)
        return jax.device_put(np.asarray(numbers)[:size].reshape(shape))


def _fixed(deviation: float, fan_in: int) -> float:
    return deviation


def _by_inputs(scale: float, fan_in: int) -> float:
    return math.sqrt(scale / fan_in) / _CUT_DEVIATION


def _bound_by_inputs(scale: float, fan_in: int) -> float:
    return math.sqrt(scale / fan_in)


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


# TF-slim's `variance_scaling_initializer`: He et al. 2015, with a normal distribution truncated at
# two standard deviations. Layers override it if the original implementation uses another scheme.
conv_kernel = scaled_normal(2.0)
# No ReLU follows a depthwise filter directly, so the factor 2 for a ReLU is not needed.
depthwise_kernel = scaled_normal(1.0)
linear_kernel = scaled_normal(1.0)
# Caffe's "xavier" filler: uniform, scaled by the number of inputs only.
xavier = _Initializer(_uniform, _bound_by_inputs, 3.0)


class _OneKey:
    def params(self) -> jax.Array:
        return jax.random.key(0)


ONE_KEY: Any = _OneKey()
"""Replaces `nnx.Rngs` where a network is built without values (`nnx.eval_shape`).

Tracing the counter of `nnx.Rngs` takes quadratic time, 5/6 of the build of Inception-ResNet-v2.
"""

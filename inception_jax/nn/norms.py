"""Normalisation: BatchNorm, what replaces it in a folded network, and LayerNorm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from inception_jax.nn.rewrites import enabled

Moments = tuple[jax.Array, jax.Array]
"""Mean and biased variance of each channel."""


class BatchNorm(nnx.Module):
    """Batch normalisation with the running variance that PyTorch and TensorFlow keep.

    Flax's own layer averages the biased variance (divided by n) into its running statistics.
    PyTorch, TensorFlow and this layer average the unbiased one (divided by n - 1), and normalise
    with the biased one. Statistics are computed, averaged and applied in float32 (float64 for
    float64 parameters) whatever `dtype` is. Only the result is cast.

    In a `jax.jit` over a sharded batch the statistics are those of the global batch.

    Args:
        channels: size of the last axis; statistics are averaged over all others.
        eps: added to the variance.
        momentum: share of the old running average that a training step keeps, the convention of
            TensorFlow, Keras and Flax. PyTorch's `momentum` is one minus this. Networks have 0.9
            by default: after 30 steps the statistics are the images', whatever they started from.
            The 0.9997 of the papers' recipes needs ten thousand.

    Raises:
        ValueError: in training, for a single value per channel: it has no variance.
    """

    def __init__(
        self,
        channels: int,
        *,
        eps: float,
        momentum: float,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        wide = jnp.promote_types(param_dtype, jnp.float32)
        self.scale = nnx.Param(jnp.ones(channels, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros(channels, wide))
        self.var = nnx.BatchStat(jnp.ones(channels, wide))
        self.eps = eps
        self.momentum = momentum
        self.dtype = dtype
        self.use_running_average = True

    def __call__(self, x: jax.Array, moments: Moments | None = None) -> jax.Array:
        x = x.astype(jnp.promote_types(x.dtype, self.mean[...].dtype))
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._update(x, moments or batch_moments(x, self.mean[...]))
        gain = self.scale[...].astype(x.dtype) * lax.rsqrt(var + self.eps)
        return ((x - mean) * gain + self.bias[...].astype(x.dtype)).astype(self.dtype)

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """Returns the factor and the summand of each channel in evaluation, float32 or wider."""
        mean, var = self.mean[...], self.var[...]
        gain = self.scale[...].astype(var.dtype) * lax.rsqrt(var + self.eps)
        return gain, self.bias[...].astype(var.dtype) - mean * gain

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Takes its part of `nnx.view(model, use_running_average=...)`."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _update(self, x: jax.Array, moments: Moments) -> Moments:
        n = x.size // x.shape[-1]
        if n == 1:
            raise ValueError(
                f"BatchNorm in training got one value per channel (input {x.shape}), which has no "
                "variance: use a larger batch or image"
            )
        mean, var = moments
        # `variable[...] = x` asks a traced x for its sharding, and the error that says it has none
        # takes two thirds of the time to trace a step.
        self.mean.set_value(self._average(self.mean[...], mean))
        self.var.set_value(self._average(self.var[...], var * (n / (n - 1))))
        return mean, var

    def _average(self, old: jax.Array, new: jax.Array) -> jax.Array:
        new = lax.stop_gradient(new).astype(old.dtype)
        return self.momentum * old + (1 - self.momentum) * new


def batch_moments(x: jax.Array, shift: jax.Array) -> Moments:
    """Returns mean and biased variance of each channel of [..., c], in float32 or wider.

    If the rewriting `statistics` is enabled, one pass over x sums x - shift and its square, and
    devices communicate once. Without the shift the square of a mean far from zero would cancel the
    digits of the variance.

    Args:
        x: a map.
        shift: rough means of the channels: the running ones.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    if not enabled("statistics"):
        mean = x.mean(axes)
        return mean, jnp.square(x - mean).mean(axes)
    shift = lax.stop_gradient(shift).astype(x.dtype)
    distance = x - shift
    mean = distance.mean(axes)
    var = jnp.square(distance).mean(axes) - jnp.square(mean)
    return shift + mean, jnp.where(var > 0, var, 0)  # rounding may make it negative


class Folded(nnx.Module):
    """Replaces a BatchNorm that was folded into a convolution: returns its input."""

    use_running_average = True

    def __call__(self, x: jax.Array, moments: Moments | None = None) -> jax.Array:
        del moments
        return x

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Refuses training.

        Raises:
            ValueError: for `nnx.view(model, use_running_average=False)`.
        """
        if use_running_average is False:
            raise ValueError("a folded network cannot be trained: train the one it was made from")


class LayerNorm(nnx.Module):
    """Normalises the last axis of [n, d] to mean 0 and variance 1, then scales and shifts it.

    Computed in float32 or wider, returned in `dtype`.
    """

    # Not `nnx.LayerNorm`: it multiplies the scale into the reciprocal deviation first, which rounds
    # differently from PyTorch's.

    def __init__(
        self,
        features: int,
        *,
        eps: float,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.scale = nnx.Param(jnp.ones(features, param_dtype))
        self.bias = nnx.Param(jnp.zeros(features, param_dtype))
        self.eps = eps
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = x - x.mean(-1, keepdims=True)
        x = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
        return (x * self.scale[...] + self.bias[...]).astype(self.dtype)

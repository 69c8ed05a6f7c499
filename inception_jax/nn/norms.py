"""Normalisation: BatchNorm, its replacement after folding, and LayerNorm."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from inception_jax.nn.forms import by_platform
from inception_jax.nn.rewrites import enabled

Centred = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""A feature map minus a constant for each channel, and its statistics over the batch.

The feature map minus the constants [..., c]; the constants [c], which may be 0; the mean [c] and
the biased variance [c] of that map. All are float32 or wider. It is not a named tuple, which
`nnx.tabulate` cannot print.
"""


class BatchNorm(nnx.Module):
    """Batch normalisation with the running variance that PyTorch and TensorFlow keep.

    Flax's own layer averages the biased variance (divided by n) into its running statistics.
    PyTorch, TensorFlow and this layer average the unbiased variance (divided by n - 1), and
    normalise with the biased variance. Statistics are computed, averaged and applied in float32
    (float64 for float64 parameters) whatever `dtype` is. Only the result is cast to `dtype`.

    In a `jax.jit` over a sharded batch the statistics are those of the global batch.

    Args:
        channels: size of the last axis; statistics are averaged over all others.
        eps: epsilon, added to the variance.
        momentum: share of the old running average that a training step keeps, the convention of
            TensorFlow, Keras and Flax. PyTorch's `momentum` is one minus this. With the networks'
            default of 0.9, the initial statistics no longer matter after 30 steps. With 0.9997, as
            in the papers' recipes, this takes ten thousand steps.

    Raises:
        ValueError: in training, if there is a single value per channel, which has no variance.
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

    def __call__(self, x: jax.Array, *, relu: bool = False) -> jax.Array:
        """Normalises the last axis of [..., c].

        Args:
            x: feature map [..., c].
            relu: apply a ReLU to the result.

        Raises:
            ValueError: in training, if there is a single value per channel.
        """
        if not self.use_running_average:
            return self.by_batch(centred(x, self.mean[...]), relu=relu)
        x = x.astype(jnp.promote_types(x.dtype, self.mean[...].dtype))
        arrays = (x, self.mean[...], self.var[...], self.scale[...], self.bias[...])
        return _normalise(arrays, self.eps, relu, self.dtype)

    def by_batch(self, batch: Centred, *, relu: bool = False) -> jax.Array:
        """Normalises a feature map by its own statistics, which the running averages then include.

        Args:
            batch: feature map with its statistics.
            relu: apply a ReLU to the result.

        Raises:
            ValueError: if there is a single value per channel.
        """
        x, shift, mean, var = batch
        n = x.size // mean.size
        if n == 1:
            raise ValueError(
                f"BatchNorm in training got one value per channel (input {x.shape}), "
                "which has no variance: use a larger batch or image"
            )
        # Not `variable[...] = x`: it asks a traced x for its sharding, which raises an error inside
        # and takes two thirds of the time of tracing a step.
        self.mean.set_value(self._average(self.mean[...], shift + mean))
        self.var.set_value(self._average(self.var[...], var * (n / (n - 1))))
        normalise = _normalise_in_training if _own_gradient() else _normalise
        arrays = (x, mean, var, self.scale[...], self.bias[...])
        return normalise(arrays, self.eps, relu, self.dtype)

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """Returns the gain and the shift [c] that evaluation applies to each channel.

        Gain and shift are float32 or wider.
        """
        mean, var = self.mean[...], self.var[...]
        gain = self.scale[...].astype(var.dtype) * lax.rsqrt(var + self.eps)
        return gain, self.bias[...].astype(var.dtype) - mean * gain

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Sets `use_running_average`; called by `nnx.view(model, use_running_average=...)`."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _average(self, old: jax.Array, new: jax.Array) -> jax.Array:
        new = lax.stop_gradient(new).astype(old.dtype)
        return self.momentum * old + (1 - self.momentum) * new


Arrays = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]
"""A feature map in the dtype of the sums, then mean, variance, scale and bias [c].

In training, the first three may be those of a `Centred`, because a constant cancels.
"""


def _normalise(arrays: Arrays, eps: float, relu: bool, dtype: DTypeLike) -> jax.Array:
    x, mean, var, scale, bias = arrays
    gain = scale.astype(x.dtype) * lax.rsqrt(var + eps)
    y = ((x - mean) * gain + bias.astype(x.dtype)).astype(dtype)
    return jax.nn.relu(y) if relu else y


# Inlined: jitted only so that each shape is traced once.
@functools.partial(jax.jit, static_argnums=(1, 2, 3), inline=True)
def _normalise_in_training(arrays: Arrays, eps: float, relu: bool, dtype: DTypeLike) -> jax.Array:
    return by_platform(_normalise_by_batch, _normalise, eps, relu, dtype)(arrays)


def _normalise_by_batch(arrays: Arrays, eps: float, relu: bool, dtype: DTypeLike) -> jax.Array:
    """Normalises x, as `_normalise` does, with a custom gradient that is faster on CPUs.

    The gradient reads the feature maps only twice, which is the minimum: once for the sums over the
    batch, and once for the gradient of x. With the automatic gradient, XLA's CPU backend reads them
    again for every sum. The mean and the variance must be those of x, because the gradient of x
    includes their dependence on x.

    Args:
        arrays: x, its mean and variance, BatchNorm's scale and bias; see `Arrays`.
        eps: BatchNorm's epsilon.
        relu: whether to apply a ReLU to the result.
        dtype: dtype of the result.
    """

    @jax.custom_vjp
    def own(arrays: Arrays) -> jax.Array:
        return _normalise(arrays, eps, relu, dtype)

    def forward(arrays: Arrays) -> tuple[jax.Array, Arrays]:
        return _normalise(arrays, eps, relu, dtype), arrays

    def backward(arrays: Arrays, g: jax.Array):
        dx, dscale, dbias = _batch_gradients(arrays, g, eps, relu, dtype)
        # None for mean and variance, because dx includes their part. They stay arguments, so that
        # second derivatives pass through them.
        return ((dx, None, None, dscale, dbias),)

    own.defvjp(forward, backward)
    return own(arrays)


@functools.partial(jax.jit, static_argnums=(2, 3, 4), inline=True)
def _batch_gradients(
    arrays: Arrays, g: jax.Array, eps: float, relu: bool, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of x, scale and bias.

    Args:
        arrays: see `_normalise_by_batch`.
        g: gradient of the result of `_normalise`.
        eps: see `_normalise_by_batch`.
        relu: see `_normalise_by_batch`.
        dtype: see `_normalise_by_batch`.
    """
    x, mean, var, scale, bias = arrays
    deviation = lax.rsqrt(var + eps)
    normal = (x - mean) * deviation
    if relu:  # recomputed from x, which is stored anyway
        g = jnp.where(_normalise(arrays, eps, relu, dtype) > 0, g, 0)
    g = g.astype(x.dtype)
    axes = tuple(range(x.ndim - 1))
    # Not the sum of g * normal, because XLA's CPU backend would store `normal` first. The mean is
    # small, see `_centred_and_stored`; else the difference would lose digits.
    dbias = g.sum(axes)
    dscale = deviation * ((g * x).sum(axes) - mean * dbias)
    n = x.size // x.shape[-1]
    dx = scale.astype(x.dtype) * deviation * (g - dbias / n - normal * (dscale / n))
    return dx, dscale.astype(scale.dtype), dbias.astype(bias.dtype)


def centred(x: jax.Array, shift: jax.Array) -> Centred:
    """Returns a feature map with its statistics over the batch, for `BatchNorm.by_batch`.

    With the rewrite `statistics` (see `rewrites`), one pass sums x - shift and its square, and
    devices communicate once. Without the shift, the variance of values far from zero would lose
    digits, because it would be the difference of two large squares. On CPUs, with the rewrite
    `gradients` too, the result's values are x - shift; else they are x.

    Args:
        x: feature map [..., c].
        shift: approximate means [c] of the channels, such as the running means.
    """
    return _by_platform(_centred_and_stored, _centred)(x, shift)


def centred_parts(x: jax.Array, shifts: Sequence[jax.Array]) -> list[Centred]:
    """Splits a feature map along its channels; returns each part as `centred` does.

    Args:
        x: feature map [..., c].
        shifts: approximate means of the channels of each part. Together they have c or fewer
            channels.
    """
    return _by_platform(_parts_one_by_one, _parts_at_once)(x, *shifts)


def _by_platform(on_cpus: Callable, elsewhere: Callable) -> Callable:
    return by_platform(on_cpus, elsewhere) if _own_gradient() else elsewhere


def _own_gradient() -> bool:
    """Returns whether BatchNorm has a custom gradient on CPUs.

    The gradient needs a small mean, which only the rewrite `statistics` gives.
    """
    return enabled("gradients") and enabled("statistics")


def _centred(x: jax.Array, shift: jax.Array) -> Centred:
    x = x.astype(jnp.promote_types(x.dtype, shift.dtype))
    return x, jnp.zeros_like(shift), *_moments(x, shift)


def _centred_and_stored(x: jax.Array, shift: jax.Array) -> Centred:
    # XLA's CPU backend stores x - shift before it sums it. If everything else is computed from that
    # too, x need not be kept.
    values = _stored(x.astype(jnp.promote_types(x.dtype, shift.dtype)) - lax.stop_gradient(shift))
    zero = jnp.zeros_like(shift)
    return values, shift, *_moments(values, zero)


def _moments(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance of each channel of [..., c], in float32 or wider."""
    axes = tuple(range(x.ndim - 1))
    if not enabled("statistics"):
        mean = x.mean(axes)
        return mean, jnp.square(x - mean).mean(axes)
    shift = lax.stop_gradient(shift)
    mean = (x - shift).mean(axes)
    var = jnp.square(x - shift).mean(axes) - jnp.square(mean)
    return shift + mean, jnp.where(var > 0, var, 0)  # rounding may make it negative


def _parts_one_by_one(x: jax.Array, *shifts: jax.Array) -> list[Centred]:
    parts = jnp.split(x, _ends(shifts), axis=-1)
    return [_centred_and_stored(part, s) for part, s in zip(parts, shifts, strict=False)]


def _parts_at_once(x: jax.Array, *shifts: jax.Array) -> list[Centred]:
    # On TPUs, reductions over the whole output of a convolution fuse into the convolution;
    # reductions over a slice need an extra pass.
    shift = jnp.concatenate(shifts)
    dtype = jnp.promote_types(x.dtype, shift.dtype)
    moments = _moments(x.astype(dtype), jnp.pad(shift, (0, x.shape[-1] - shift.size)))
    # Split before it is widened: XLA would store the wide map.
    parts = zip(*(jnp.split(a, _ends(shifts), axis=-1) for a in (x, *moments)), strict=True)
    return [
        (part.astype(dtype), jnp.zeros_like(shift), mean, var)
        for (part, mean, var), shift in zip(parts, shifts, strict=False)
    ]


def _ends(parts: Sequence[jax.Array]) -> list[int]:
    return list(itertools.accumulate(part.size for part in parts))


@jax.custom_jvp
def _stored(x: jax.Array) -> jax.Array:
    """Returns x; XLA stores it here, and computes it only once.

    A plain `optimization_barrier` would be a barrier for the gradient too.
    """
    return lax.optimization_barrier(x)


@_stored.defjvp
def _stored_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]):
    return _stored(*primals), *tangents


class Folded(nnx.Module):
    """Replaces a BatchNorm that was folded into a convolution.

    It returns its input, after a ReLU if `relu` is True.
    """

    use_running_average = True

    def __call__(self, x: jax.Array, *, relu: bool = False) -> jax.Array:
        return jax.nn.relu(x) if relu else x

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Rejects training mode, because a folded network cannot be trained.

        Raises:
            ValueError: for `nnx.view(model, use_running_average=False)`.
        """
        if use_running_average is False:
            raise ValueError("a folded network cannot be trained: train the one it was made from")


class LayerNorm(nnx.Module):
    """Normalises the last axis of [n, d] to mean 0 and variance 1, then scales and shifts it.

    It computes in float32 or wider and returns `dtype`.
    """

    # Not `nnx.LayerNorm`: it first multiplies the scale by the reciprocal deviation, which rounds
    # differently from PyTorch.

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

"""Mean and covariance of features that stay on the devices, as pure functions.

With x64 enabled, everything is summed in float64, except on TPUs, which only emulate float64.
Otherwise each sum is a pair of float32 numbers: a rounded sum, and the rounding error. Products are
exact: features are cut into 8-bit slices. Products of slices, and the sums of these products, are
whole numbers below 2^24, which float32 holds exactly. So the order of the images, the batch size
and the number of devices do not matter: the sums always agree with sums in float64 to about 1e-13.

A `shift`, the mean of the first batch, is subtracted from all features before they are summed. So
no digits are lost if the mean is large compared with the standard deviation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_SLICES = 6  # 8-bit slices: 47 bits in all, and a sign
_ROWS = 128  # most images in one product; see `_products`
_FIRST, _NEXT = 7, 8  # bits of the first slice, and of each further one

Sums = tuple[jax.Array, jax.Array]  # `total` and `outer` of `Moments`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over vectors x of d features, from which a shift c is subtracted.

    Each sum is stored as `parts` numbers that add up to it: one number in float64, or two in
    float32.

    Attributes:
        count: number of vectors, int32 [].
        shift: the shift c, [d].
        total: sum of x - c, [parts, d].
        outer: sum of the outer products of x - c with itself, [parts, d, d].
    """

    count: jax.Array
    shift: jax.Array
    total: jax.Array
    outer: jax.Array


def empty(width: int) -> Moments:
    """Returns sums over no vectors yet, for vectors of `width` features.

    The sums are in float64 if x64 is enabled, except on TPUs; else they are pairs of float32.
    """
    double = jax.config.read("jax_enable_x64") and jax.default_backend() != "tpu"
    parts, dtype = (1, jnp.float64) if double else (2, jnp.float32)
    return Moments(
        jnp.zeros((), jnp.int32),
        jnp.zeros(width, dtype),
        jnp.zeros((parts, width), dtype),
        jnp.zeros((parts, width, width), dtype),
    )


def add(moments: Moments, features: jax.Array, mask: jax.Array) -> Moments:
    """Adds features to sums and returns the new sums.

    Args:
        moments: the sums so far.
        features: features to add, floats [n, d].
        mask: bool [n], False for rows to ignore. Ignored rows may contain NaN.
    """
    dtype = moments.shift.dtype
    features = jnp.where(mask[:, None], features, 0).astype(dtype)
    added = mask.sum(dtype=jnp.int32)
    # Any shift gives the same result, so it does not matter that `mean` depends on the batch.
    mean = features.sum(0) / jnp.maximum(added, 1).astype(dtype)
    shift = jnp.where(moments.count == 0, mean, moments.shift)
    add_block = _add_wide if dtype == jnp.float64 else _add_pairs
    (total, outer), shift = _in_blocks(add_block, moments, features, mask, shift)
    return Moments(moments.count + added, shift, total, outer)


def _in_blocks(
    add_block: Callable[..., Sums],
    moments: Moments,
    features: jax.Array,
    mask: jax.Array,
    shift: jax.Array,
) -> tuple[Sums, jax.Array]:
    """Adds features with `add_block`, in blocks of at most `_ROWS` images.

    The loop over the blocks makes the compiler store the features, so that they are rounded once.
    Without the loop, the compiler recomputes the last operations of the network for each use of the
    features. The recomputed features may be rounded differently, because the compiler then sums in
    another order or fuses a product with a subtraction. One sum would then mix differently rounded
    features. `lax.optimization_barrier` does not prevent this.

    The compiler must not know the number of iterations, because it unrolls a loop of one iteration.
    The loop also returns the shift that it subtracted, so that the compiler stores the shift too.

    Args:
        add_block: function that adds a block to sums: of the sums, features, mask and shift.
        moments: the sums so far.
        features: features to add [n, d].
        mask: bool [n], False for rows to ignore.
        shift: vector [d] that is subtracted from the features.

    Returns:
        The new sums, and the shift.
    """
    n, d = features.shape
    blocks = max(-(-n // _ROWS), 1)
    rows = -(-n // blocks)
    missing = blocks * rows - n
    # Each block takes rows from the whole batch, so that all devices have a share of every block.
    features = jnp.pad(features, [(0, missing), (0, 0)]).reshape(rows, blocks, d)
    mask = jnp.pad(mask, (0, missing)).reshape(rows, blocks)

    def block(i: jax.Array, taken: tuple) -> tuple:
        sums, features, mask, shift = taken
        part, counts = (lax.dynamic_index_in_dim(x, i, 1, False) for x in (features, mask))
        taken_off = jnp.where(i < 0, 0, shift)  # i is never negative: makes the loop store `shift`
        return add_block(sums, part, counts, shift), features, mask, taken_off

    end = jnp.where(moments.count < 0, 0, blocks)  # count is never negative: hides the length
    start = ((moments.total, moments.outer), features, mask, shift)
    sums, _, _, shift = lax.fori_loop(0, end, block, start)
    return sums, shift


def _add_wide(sums: Sums, features: jax.Array, mask: jax.Array, shift: jax.Array) -> Sums:
    total, outer = sums
    centred = jnp.where(mask[:, None], features - shift, 0)
    return total + centred.sum(0), outer + jnp.matmul(centred.T, centred, precision="highest")


def merge(a: Moments, b: Moments) -> Moments:
    """Returns the sums over all vectors of `a` and `b`."""
    shift = jnp.where(a.count == 0, b.shift, a.shift)
    a, b = about(a, shift), about(b, shift)
    return Moments(a.count + b.count, shift, _plus(a.total, b.total), _plus(a.outer, b.outer))


def about(moments: Moments, shift: jax.Array) -> Moments:
    """Returns the sums over the same vectors with another shift."""
    apart = _difference(moments.shift, shift)  # what is added to each x - c
    count = _whole(moments.count, moments.shift.dtype)
    moved = _times(count[:, None], apart)
    total = _plus(moments.total, moved)
    # x' x'ᵀ = x xᵀ + apart xᵀ + x apartᵀ + apart apartᵀ, summed
    outer = _plus(moments.outer, _outer(apart, moments.total))
    outer = _plus(outer, _outer(total, apart))
    keep = moments.count > 0
    return Moments(
        moments.count,
        shift,
        jnp.where(keep, total, 0),
        jnp.where(keep, outer, 0),
    )


def mean_and_covariance(moments: Moments) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the mean [d] and the unbiased covariance [d, d] in float64, and the count.

    Raises:
        ValueError: for fewer than two vectors.
    """
    count = int(moments.count)
    if count < 2:
        raise ValueError(f"a covariance needs at least two images; got {count}")
    shift, total, outer = (np.asarray(x, np.float64) for x in _arrays(moments))
    offset = total.sum(0) / count
    outer = outer.sum(0)
    cov = (outer - count * np.outer(offset, offset)) / (count - 1)
    return shift + offset, (cov + cov.T) / 2, count


def _arrays(moments: Moments) -> tuple[Any, Any, Any]:
    return jax.device_get((moments.shift, moments.total, moments.outer))


# Products without rounding


def _add_pairs(sums: Sums, features: jax.Array, mask: jax.Array, shift: jax.Array) -> Sums:
    high, low = (jnp.where(mask[:, None], x, 0) for x in _difference(features, shift))
    slices, scale = _sliced(high, low)
    total, outer = sums
    for order in range(_SLICES):
        unit = jnp.float32(2.0 ** -(_FIRST + _NEXT * order))
        total = _plus_one(total, slices[order].sum(0) * unit * scale)
    units = scale[:, None] * scale
    for order, product in enumerate(_products(slices)):
        unit = jnp.float32(2.0 ** -(2 * _FIRST + _NEXT * order))
        outer = _plus_one(outer, product * unit * units)
    return total, outer


def _sliced(high: jax.Array, low: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """Cuts numbers into 8-bit slices, which are whole numbers from -192 to 192.

    Args:
        high: numbers rounded to float32, [n, d].
        low: rounding errors of `high`, [n, d].

    Returns:
        A list of slices [n, d], and a scale [d], a power of two for each column. A number is
        scale * (slices[0] * 2^-7 + slices[1] * 2^-15 + ...).
    """
    _, exponent = jnp.frexp(jnp.abs(high).max(0))
    exponent = jnp.clip(exponent, -60, 60)
    scale = jnp.ldexp(jnp.float32(1), exponent)
    down = jnp.ldexp(jnp.float32(1), -exponent)
    rest, low = high * down, low * down
    slices = []
    bits = 0
    for order in range(_SLICES):
        step = _NEXT if order else _FIRST
        bits += step
        rest = rest * jnp.float32(2.0**step)
        if order == 3:  # `rest` has lost its upper 23 bits, so the low part can be added exactly
            rest = rest + low * jnp.float32(2.0**bits)
        whole = jnp.round(rest)
        slices.append(whole)
        rest = rest - whole
    return slices, scale


def _products(slices: list[jax.Array]) -> list[jax.Array]:
    """Returns, for each k below `_SLICES`, the sum [d, d] of the products of slices i and k - i.

    Each sum is over all images and all i, so it has at most 6 * 128 terms. All terms are whole
    numbers. At most two of the six products of an image reach 1.5 * 2^14, because only slice 3 goes
    up to 192. The others are at most 2^14. So all sums stay below 2^24, and float32 sums are exact
    in any order. 8-bit slices are exact in bfloat16 and TF32 too.
    """
    products = []
    for order in range(_SLICES):
        left = jnp.concatenate(slices[: order + 1])
        right = jnp.concatenate(slices[order::-1])
        products.append(jnp.matmul(left.T, right, precision="highest"))
    return products


# Numbers stored as one float64, or as two float32: a rounded value and its rounding error


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the rounded sum a + b, and its rounding error. Source: Knuth, TAOCP 2, 4.2.2."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _plus_one(pair: jax.Array, number: jax.Array) -> jax.Array:
    total, lost = _two_sum(pair[0], number)
    return jnp.stack(_two_sum(total, pair[1] + lost))


def _plus(a: jax.Array, b: jax.Array) -> jax.Array:
    if len(a) == 1:
        return a + b
    total, lost = _two_sum(a[0], b[0])
    low, lost_low = _two_sum(a[1], b[1])
    total, lost = _two_sum(total, lost + low)
    return jnp.stack(_two_sum(total, lost + lost_low))


def _difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a - b, as an exact pair of float32 numbers or as a rounded float64 number."""
    if a.dtype == jnp.float64:
        return (a - b)[None]
    return jnp.stack(_two_sum(a, -b))


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    if len(a) == 1:
        return a * b
    product, lost = _two_product(a[0], b[0])
    return jnp.stack(_two_sum(product, lost + (a[0] * b[1] + a[1] * b[0])))


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
    return _times(a[:, :, None], b[:, None, :])


def _two_product(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a * b as a pair of float32 numbers, the rounded product and its rounding error.

    Every product of two halves (see `_halves`) is exact, so it does not matter whether the compiler
    fuses it with an addition. Dekker's formula would fail, because it relies on a rounded product:
    if the compiler fuses the product with the subtraction after it, the product is not rounded.
    """
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    first, lost = _two_sum(a_high * b_high, a_high * b_low)
    second, lost_more = _two_sum(first, a_low * b_high)
    return _two_sum(second, lost + lost_more + a_low * b_low)


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits each float32 number into two parts of 12 bits that add up to the number."""
    bits = lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high


def _whole(count: jax.Array, dtype: Any) -> jax.Array:
    """Returns an integer as one float64 number, [1], or as a pair of float32 numbers, [2]."""
    if dtype == jnp.float64:
        return count.astype(dtype)[None]
    low = count & 0xFFF
    return jnp.stack(_two_sum((count - low).astype(dtype), low.astype(dtype)))

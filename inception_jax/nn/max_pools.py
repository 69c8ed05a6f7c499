"""Max pools on CPUs, as maxima of shifted slices.

XLA's CPU backend takes many times as long for a window reduction.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from inception_jax.nn.rewrites import enabled
from inception_jax.nn.windows import Padding, padded, pads, shifts, taps


def max_shifted(x: jax.Array, window: int, stride: int, padding: Padding) -> jax.Array:
    """Returns the maximum over windows of [n, h, w, c]; see `ops.max_pool`.

    With the rewrite `gradients` (see `rewrites`), it has a custom gradient without forward mode.
    """
    if enabled("gradients"):
        return _with_gradient(x.shape, window, stride, padding)(x)
    return _max(x, window, stride, padding)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max(x: jax.Array, window: int, stride: int, padding: Padding) -> jax.Array:
    rows = functools.reduce(lax.max, taps(x, window, stride, padding, 1, -jnp.inf))
    if any(sum(pads(n, window, stride, padding)) for n in x.shape[1:3]):
        # Otherwise XLA computes these maxima again for each column, with branches at the border.
        rows = lax.optimization_barrier(rows)
    return functools.reduce(lax.max, taps(rows, window, stride, padding, 2, -jnp.inf))


@_max.defjvp
def _(window: int, stride: int, padding: Padding, primals: tuple, tangents: tuple):
    # The gradient of `lax.max` would be split between equal pixels.
    def first_max(best: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where((new > best) | (new != new), new, best)

    def pool(x: jax.Array) -> jax.Array:
        x = padded(x, (window, window), stride, padding, -jnp.inf)
        # Columns before rows: the first maximum in reading order is the first of its own row.
        x = functools.reduce(first_max, shifts(x, window, stride, axis=2))
        return functools.reduce(first_max, shifts(x, window, stride, axis=1))

    return jax.jvp(pool, primals, tangents)


def _with_gradient(
    shape: tuple[int, ...], window: int, stride: int, padding: Padding
) -> Callable[[jax.Array], jax.Array]:
    """Returns a max pool of maps [n, h, w, c] of this shape, with a custom gradient.

    The position of each maximum in its window is stored, in a byte. The gradient of the map is
    computed in one pass. The gradient that JAX derives takes twice as long.
    """

    @jax.custom_vjp
    def pool(x: jax.Array) -> jax.Array:
        return _max(x, window, stride, padding)

    def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = _max(x, window, stride, padding)
        return y, _positions(x, y, window, stride, padding)

    def backward(positions: jax.Array, g: jax.Array) -> tuple[jax.Array]:
        return (_of_input(g, positions, shape, window, stride, padding),)

    pool.defvjp(forward, backward)
    return pool


def _positions(x: jax.Array, y: jax.Array, window: int, stride: int, padding: Padding) -> jax.Array:
    """Returns where the maxima are in their windows, counted in reading order, [n, p, q, c].

    If several pixels equal the maximum or are NaN, the first of them counts.

    Args:
        x: feature map [n, h, w, c].
        y: maxima [n, p, q, c].
        window: height and width of the window.
        stride: step of the window along both axes.
        padding: see `Padding`.
    """
    x = padded(x, (window, window), stride, padding, -jnp.inf)
    rows = shifts(x, window, stride, axis=1)
    pixels = [pixel for row in rows for pixel in shifts(row, window, stride, axis=2)]
    last = len(pixels) - 1
    positions = jnp.full(y.shape, last, np.min_scalar_type(-len(pixels)))
    for i in reversed(range(last)):
        here = (pixels[i] == y) | (pixels[i] != pixels[i])
        positions = jnp.where(here, jnp.asarray(i, positions.dtype), positions)
    return positions


def _of_input(
    g: jax.Array,
    positions: jax.Array,
    shape: tuple[int, ...],
    window: int,
    stride: int,
    padding: Padding,
) -> jax.Array:
    """Returns the gradient of a max pool's input, an array of `shape`.

    Pixel i * stride + a of the padded map is at position k * stride + a of window i - k. So all
    pixels with the same k are computed together, in an array with axes for i and a.

    Args:
        g: gradient of the maxima [n, p, q, c].
        positions: see `_positions`.
        shape: shape of the feature map, [n, h, w, c].
        window: height and width of the window.
        stride: step of the window along both axes.
        padding: see `Padding`.
    """
    n, h, w, c = shape
    borders = [pads(size, window, stride, padding) for size in (h, w)]
    counts = [-(-(size + sum(b)) // stride) for size, b in zip((h, w), borders, strict=True)]
    most = (window - 1) // stride
    sides = [(most, count - m, 0) for count, m in zip(counts, g.shape[1:3], strict=True)]
    widths = ((0, 0, 0), *sides, (0, 0, 0))
    g = lax.pad(g, jnp.zeros((), g.dtype), widths)
    positions = lax.pad(positions, jnp.zeros((), positions.dtype), widths)
    # Otherwise XLA pads again for each pixel, with branches.
    g, positions = lax.optimization_barrier((g, positions))

    def part(array: jax.Array, k: int, m: int) -> jax.Array:
        array = lax.slice_in_dim(array, most - k, most - k + counts[0], axis=1)
        array = lax.slice_in_dim(array, most - m, most - m + counts[1], axis=2)
        return array[:, :, None, :, None]

    total = jnp.zeros((n, counts[0], stride, counts[1], stride, c), g.dtype)
    for k in range(most + 1):
        for m in range(most + 1):
            rows, columns = np.arange(stride) + k * stride, np.arange(stride) + m * stride
            inside = np.logical_and.outer(rows < window, columns < window)
            expected = np.where(inside, np.add.outer(rows * window, columns), -1)
            expected = jnp.asarray(expected[:, None, :, None], positions.dtype)
            total += jnp.where(part(positions, k, m) == expected, part(g, k, m), 0)
    total = total.reshape(n, counts[0] * stride, counts[1] * stride, c)
    (top, _), (left, _) = borders
    return total[:, top : top + h, left : left + w]

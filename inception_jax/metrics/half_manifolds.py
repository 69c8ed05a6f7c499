"""Precision and recall with the rounded distances of guided-diffusion's evaluator.

The evaluator computes distances in float16, or in float32 if one overflows. float16 has three
digits, so an image near the edge of a ball (see `manifolds`) may be counted on the wrong side. The
numbers in papers include this rounding, which depends on the machine. This module rounds sums where
TensorFlow rounds them on a CPU. But the order in which TensorFlow sums products in float32 is
unknown. So one sum in thousands is rounded differently, and precision or recall may differ by one
image.
"""

from __future__ import annotations

import functools

import numpy as np

from inception_jax.metrics.manifolds import blocks, share_within
from inception_jax.metrics.metric_values import PrecisionRecall

_BLOCK = 10_000  # images along each side of a block; a block is all float16 or all float32
_ROWS = 1_000  # rows computed at once
_LEAF, _LANES = 1024, 8  # how Eigen groups the terms of a sum, see `_sum`


def half_precision_recall(
    generated: np.ndarray, real: np.ndarray, *, neighbours: int
) -> PrecisionRecall:
    """Returns a `PrecisionRecall`; see `manifolds.manifold_precision_recall` for the arguments."""
    generated, real = (x.astype(np.float32) for x in (generated, real))
    return PrecisionRecall(
        share_within(generated, real, _radii(real, neighbours), _distances, _BLOCK),
        share_within(real, generated, _radii(generated, neighbours), _distances, _BLOCK),
    )


def _radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Returns the squared distance from each image to its (k + 1)-th nearest image, float32 [n].

    k is `neighbours`. The image itself counts as its nearest image.
    """
    radii = np.empty(len(features), np.float32)
    for rows in blocks(len(features), _BLOCK):
        nearest = np.empty((rows.stop - rows.start, 0), np.float32)
        for columns in blocks(len(features), _BLOCK):
            distances = _distances(features[rows], features[columns])
            nearest = np.concatenate([nearest, distances], axis=1)
            kept = min(neighbours + 1, nearest.shape[1])
            nearest = np.partition(nearest, kept - 1, axis=1)[:, :kept]
        radii[rows] = nearest.max(1)
    return radii


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns squared distances [n, m] in float16, or in float32 if one of them overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        halves = _all_distances(x, y, np.float16)
    return halves if np.isfinite(halves).all() else _all_distances(x, y, np.float32)


def _all_distances(x: np.ndarray, y: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """Returns squared distances [n, m]; each step is rounded to `dtype`.

    The dot products of x and y are summed in float32, then rounded.
    """
    x, y = x.astype(dtype), y.astype(dtype)
    squares_x, squares_y = (_sum(np.square(z)) for z in (x, y))
    wide = y.astype(np.float32).T
    result = np.empty((len(x), len(y)), dtype)
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        products = (x[rows].astype(np.float32) @ wide).astype(dtype)
        apart = squares_x[rows, None] - dtype(2) * products + squares_y
        result[rows] = np.maximum(apart, dtype(0))
    return result


def _sum(numbers: np.ndarray) -> np.ndarray:
    """Sums each row. Adds float16 numbers in the order that TensorFlow uses on a CPU.

    A float16 row of more than 1024 numbers is halved, and each half is summed by itself. A shorter
    row is cut into chunks of 32 numbers. The chunks are added in float16, which leaves 32 sums.
    These are cut into four groups of eight, and the groups are added in float16. The remaining
    eight sums are added in float32.
    """
    if numbers.dtype != np.float16:
        return numbers.sum(1)
    width = numbers.shape[1]
    if width > _LEAF:
        half = -(-width // 2 // _LANES) * _LANES
        return _sum(numbers[:, :half]) + _sum(numbers[:, half:])
    wide = 4 * _LANES
    padded = np.pad(numbers, [(0, 0), (0, -width % wide)]).reshape(len(numbers), -1, 4, _LANES)
    partial = functools.reduce(np.add, padded.swapaxes(0, 1))
    lanes = functools.reduce(np.add, partial.swapaxes(0, 1))
    return lanes.sum(1, dtype=np.float32).astype(np.float16)

"""Precision and recall with the distances of guided-diffusion's evaluator.

The evaluator computes distances in float16 where they are finite there, which leaves three digits:
enough to move images in or out of a ball. The numbers in papers have this rounding. It depends on
the machine: here sums are rounded where TensorFlow rounds them on a CPU. Products are summed in
float32 in an unknown order, so one in thousands is rounded the other way, and a share may differ
by one image.
"""

from __future__ import annotations

import functools

import numpy as np

from inception_jax.metrics.manifolds import blocks, share_within
from inception_jax.metrics.metric_values import PrecisionRecall

_BLOCK = 10_000  # images on a side of a block, which is in float16 as a whole or not at all
_ROWS = 1_000  # computed at once
_LEAF, _LANES = 1024, 8  # of Eigen's sums


def half_precision_recall(
    generated: np.ndarray, real: np.ndarray, *, neighbours: int
) -> PrecisionRecall:
    """Returns precision and recall; see `manifolds.manifold_precision_recall` for the arguments."""
    generated, real = (x.astype(np.float32) for x in (generated, real))
    return PrecisionRecall(
        share_within(generated, real, _radii(real, neighbours), _distances, _BLOCK),
        share_within(real, generated, _radii(generated, neighbours), _distances, _BLOCK),
    )


def _radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    """The squared distance of each to its k-th nearest other one: the (k + 1)-th of all."""
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
    """Squared; float16 if all are finite, else float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        halves = _all_distances(x, y, np.float16)
    return halves if np.isfinite(halves).all() else _all_distances(x, y, np.float32)


def _all_distances(x: np.ndarray, y: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """Every step is rounded to the type; products are summed in float32."""
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
    """Sums along rows in the order of TensorFlow on a CPU, where float16 is concerned.

    Of more than 1024 numbers it sums both halves. Else it sums every 32nd, then four groups of
    eight, in float16, and what is left in float32.
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

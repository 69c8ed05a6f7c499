"""Improved precision and recall, density and coverage, computed from features."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from inception_jax.metrics.metric_values import DensityCoverage, PrecisionRecall

_BLOCK = 2048  # images along each side of a block of distances, which takes 32 MB in float64


def manifold_precision_recall(
    generated: np.ndarray, real: np.ndarray, *, neighbours: int = 3
) -> PrecisionRecall:
    """Returns precision and recall: the share of each set within the manifold of the other set.

    The manifold of a set is the union of balls around the feature vectors of its images. The radius
    of a ball is the distance from its centre to the k-th nearest other vector of the set. Distances
    are computed in float64, in blocks. With n images in each set, this takes 4 n² d
    multiplications.

    Source: Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991. They use the features of
    VGG-16's second fully connected layer. Values from Inception's features differ from values from
    VGG's, and can be compared only with each other.

    Args:
        generated: features [n, d] of the generated images.
        real: features [m, d] of the real images.
        neighbours: k, the neighbour that sets the radius of a ball.

    Returns:
        A `PrecisionRecall`: precision, the share of generated images within the manifold of the
        real ones; and recall, the share of real images within the manifold of the generated ones.

    Raises:
        ValueError: if a set does not have more than k images, or the numbers of features differ.
    """
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"{generated.shape[1]} features are not comparable with {real.shape[1]}")
    if not 1 <= neighbours < min(len(generated), len(real)):
        raise ValueError(
            f"precision and recall with {neighbours} neighbours need more images than that in "
            f"each set; the sets have {len(generated)} and {len(real)}"
        )
    # Far from the origin, small distances would cancel out in the difference of large squares.
    centre = real.mean(0, dtype=np.float64)
    generated, real = generated - centre, real - centre
    return PrecisionRecall(
        share_within(generated, real, _radii(real, neighbours), _distances, _BLOCK),
        share_within(real, generated, _radii(generated, neighbours), _distances, _BLOCK),
    )


def manifold_density_coverage(
    generated: np.ndarray, real: np.ndarray, *, neighbours: int = 5
) -> DensityCoverage:
    """Returns density and coverage, from balls around the feature vectors of the real images.

    The result is a `DensityCoverage`. The radius of a ball is the distance to the k-th nearest
    other real image. Points on the edge of a ball are outside. Density is the mean number of balls
    that a generated image lies in, divided by k. Coverage is the share of balls that hold at least
    one generated image. A single outlier with a large ball affects density and coverage less than
    precision and recall.

    Source: Naeem et al. 2020, https://arxiv.org/abs/2002.09797, and their package prdc.

    Args:
        generated: features [n, d] of the generated images.
        real: features [m, d] of the real images.
        neighbours: k, the neighbour that sets the radius of a ball.

    Raises:
        ValueError: if there are not more than k real images, there are no generated images, or the
            numbers of features differ.
    """
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"{generated.shape[1]} features are not comparable with {real.shape[1]}")
    if not 1 <= neighbours < len(real) or not len(generated):
        raise ValueError(
            f"density and coverage with {neighbours} neighbours need more real images than that, "
            f"and a generated one; the sets have {len(real)} and {len(generated)}"
        )
    centre = real.mean(0, dtype=np.float64)
    generated, real = generated - centre, real - centre
    radii = _radii(real, neighbours)
    inside, covered = 0, np.zeros(len(real), bool)
    for rows in blocks(len(generated)):
        for columns in blocks(len(real)):
            near = _distances(generated[rows], real[columns]) < radii[columns]
            inside += int(near.sum())
            covered[columns] |= near.any(0)
    return DensityCoverage(inside / (neighbours * len(generated)), float(covered.mean()))


def _radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Returns the squared distance from each image to its k-th nearest other image, [n]."""
    radii = np.empty(len(features))
    for rows in blocks(len(features)):
        nearest = np.empty((rows.stop - rows.start, 0))
        for columns in blocks(len(features)):
            distances = _distances(features[rows], features[columns])
            if rows == columns:
                np.fill_diagonal(distances, np.inf)  # distance from itself
            nearest = np.concatenate([nearest, distances], axis=1)
            if nearest.shape[1] > neighbours:
                nearest = np.partition(nearest, neighbours - 1, axis=1)[:, :neighbours]
        radii[rows] = nearest.max(1)
    return radii


def share_within(
    points: np.ndarray,
    centres: np.ndarray,
    radii: np.ndarray,
    distances: Callable[[np.ndarray, np.ndarray], np.ndarray],
    block: int,
) -> float:
    """Returns the share of points that lie inside or on the edge of at least one ball.

    Args:
        points: points to test, [n, d].
        centres: centres of the balls, [m, d].
        radii: squared radii of the balls, [m].
        distances: function that maps points [a, d] and [b, d] to squared distances [a, b].
        block: number of points, and of centres, whose distances are in memory at once.
    """
    inside = np.zeros(len(points), bool)
    for rows in blocks(len(points), block):
        for columns in blocks(len(centres), block):
            apart = distances(points[rows], centres[columns])
            inside[rows] |= (apart <= radii[columns]).any(1)
    return float(inside.mean())


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the squared distances between points [n, d] and [m, d], as [n, m]."""
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1)
    return np.maximum(squares - 2 * (x @ y.T), 0)


def blocks(count: int, block: int = _BLOCK) -> Iterator[slice]:
    """Yields slices that cut `count` rows into blocks of at most `block` rows."""
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))

"""Improved precision and recall of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from inception_jax.metrics.metric_values import DensityCoverage, PrecisionRecall

_BLOCK = 2048  # images on a side of a block of distances: 32 MB in float64


def manifold_precision_recall(
    generated: np.ndarray, real: np.ndarray, *, neighbours: int = 3
) -> PrecisionRecall:
    """Returns which share of each set lies within the other's manifold.

    The manifold of a set is the union of balls around its features, each as large as the distance
    to the k-th nearest other one. Distances are computed block by block in float64; of n images in
    each set, 3 n² d multiplications.

    Source: Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, who take the features of
    VGG-16's second fully connected layer. With Inception's the numbers are others: they compare
    with each other only.

    Args:
        generated: features [n, d].
        real: features [m, d].
        neighbours: k.

    Returns:
        Precision, the share of generated images within the real ones' manifold, and recall, the
        share of real images within that of the generated ones.

    Raises:
        ValueError: for no more images than neighbours, or different d.
    """
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"{generated.shape[1]} features are not comparable with {real.shape[1]}")
    if not 1 <= neighbours < min(len(generated), len(real)):
        raise ValueError(
            f"precision and recall need more images than neighbours, of which {neighbours} are "
            f"asked for; the sets have {len(generated)} and {len(real)}"
        )
    # Far from the origin the squares' differences would lose the distances between near ones.
    centre = real.mean(0, dtype=np.float64)
    generated, real = generated - centre, real - centre
    return PrecisionRecall(
        share_within(generated, real, _radii(real, neighbours), _distances, _BLOCK),
        share_within(real, generated, _radii(generated, neighbours), _distances, _BLOCK),
    )


def manifold_density_coverage(
    generated: np.ndarray, real: np.ndarray, *, neighbours: int = 5
) -> DensityCoverage:
    """Returns density and coverage of the balls around the real images' features.

    Density is how many of the real ones' balls a generated image lies in, on average, over k;
    coverage the share of real images with a generated one in their ball. Unlike precision and
    recall, one outlier with a large ball does not decide either. A ball is as large as the distance
    to the k-th nearest other real image, and open: what is just as far is outside.

    Source: Naeem et al. 2020, https://arxiv.org/abs/2002.09797, and their package prdc.

    Args:
        generated: features [n, d].
        real: features [m, d].
        neighbours: k.

    Raises:
        ValueError: for no more real images than neighbours, or different d.
    """
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"{generated.shape[1]} features are not comparable with {real.shape[1]}")
    if not 1 <= neighbours < len(real) or not len(generated):
        raise ValueError(
            f"density and coverage need more real images than neighbours, of which {neighbours} "
            f"are asked for, and a generated one; the sets have {len(real)} and {len(generated)}"
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
    """The squared distance of each to its k-th nearest other one."""
    radii = np.empty(len(features))
    for rows in blocks(len(features)):
        nearest = np.empty((rows.stop - rows.start, 0))
        for columns in blocks(len(features)):
            distances = _distances(features[rows], features[columns])
            if rows == columns:
                np.fill_diagonal(distances, np.inf)  # from itself
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
    """Returns the share of points that lie in one of the balls, or on its edge.

    Args:
        points: [n, d].
        centres: of the balls, [m, d].
        radii: of the balls, [m]; squared, as the distances.
        distances: of [a, d] and [b, d], [a, b].
        block: points and centres whose distances are held at once.
    """
    inside = np.zeros(len(points), bool)
    for rows in blocks(len(points), block):
        for columns in blocks(len(centres), block):
            apart = distances(points[rows], centres[columns])
            inside[rows] |= (apart <= radii[columns]).any(1)
    return float(inside.mean())


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared."""
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1)
    return np.maximum(squares - 2 * (x @ y.T), 0)


def blocks(count: int, block: int = _BLOCK) -> Iterator[slice]:
    """Cuts a number of rows into blocks."""
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))

"""How uncertain a FID is, and what it would be of infinitely many images."""

from __future__ import annotations

import math
import statistics as standard

import numpy as np

from inception_jax.metrics.features import Features
from inception_jax.metrics.frechet import DistanceTo
from inception_jax.metrics.metric_values import Interval
from inception_jax.metrics.origin import Origin, check_comparable
from inception_jax.metrics.statistics import Statistics


def bootstrap_fid(
    generated: Features,
    real: Statistics | Features,
    *,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Returns the FID with the interval that it would vary in, had other images been generated.

    As many images are drawn again, with replacement, and the FID computed, many times. FID grows
    where images repeat, so the resamples' own mean is too large: their standard deviation is taken,
    around the FID of all images. The real images are taken as given, so that the intervals of two
    generators that are compared with them say whether these differ.

    A resample of n images and d features takes about 2 n d² operations and two decompositions: of
    5,000 images and 2,048 features a second or two.

    Source: Efron 1979; the normal interval.

    Args:
        generated: features of each generated image.
        real: the real images, or their statistics.
        resamples: how many.
        level: the probability of the interval.
        seed: of the draws.

    Raises:
        ValueError: for too few images or resamples, another `level`, or features of another origin.
    """
    if resamples < 2 or not 0 < level < 1:
        raise ValueError(
            f"two resamples at least, and a level between 0 and 1; got {resamples} and {level}"
        )
    features, distance = _prepared(generated, real)
    rng = np.random.default_rng(seed)
    count = len(features)
    found = []
    for _ in range(resamples):
        counts = rng.multinomial(count, np.full(count, 1 / count))
        drawn = counts > 0
        found.append(distance(features[drawn], counts[drawn].astype(np.float64)))
    value, std = distance(features), float(np.std(found, ddof=1))
    reach = standard.NormalDist().inv_cdf((1 + level) / 2) * std
    return Interval(value, std, max(value - reach, 0.0), value + reach)


def fid_infinity(
    generated: Features,
    real: Statistics | Features,
    *,
    points: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> Interval:
    """Returns the FID of infinitely many generated images, extrapolated.

    FID is larger of fewer images, by about a constant over their number, and the constant depends
    on the generator. It is computed of random subsets of several sizes; the line through them over
    1 / size is read at 0. The real images are taken as given.

    Source: Chong and Forsyth 2020, https://arxiv.org/abs/1911.07023, and their code, whose draws
    have no seed.

    Args:
        generated: features of each generated image.
        real: the real images, or their statistics.
        points: how many sizes, evenly spaced up to all images.
        smallest: of the sizes; None: a tenth of the images, 5,000 of 50,000 as in their code.
        seed: of the draws.

    Returns:
        The extrapolated FID, the standard error of the line there, and bounds of 95 %.

    Raises:
        ValueError: for too few images or points, or features of another origin.
    """
    features, distance = _prepared(generated, real)
    count = len(features)
    smallest = max(count // 10, 2) if smallest is None else smallest
    sizes = np.linspace(smallest, count, points).astype(int) if points >= 3 else np.zeros(1)
    if not 2 <= smallest < count or len(np.unique(sizes)) < 3:
        raise ValueError(
            f"three sizes at least are needed, between 2 and {count} images; got {points} points "
            f"from {smallest} on"
        )
    rng = np.random.default_rng(seed)
    found = [distance(features[rng.permutation(count)[:size]]) for size in sizes]
    x, y = 1 / sizes, np.array(found)
    slope = ((x - x.mean()) @ (y - y.mean())) / ((x - x.mean()) ** 2).sum()
    value = float(y.mean() - slope * x.mean())
    rest = y - value - slope * x
    spread = 1 / points + x.mean() ** 2 / ((x - x.mean()) ** 2).sum()
    std = math.sqrt(float(rest @ rest) / (points - 2) * spread)
    reach = standard.NormalDist().inv_cdf(0.975) * std
    return Interval(value, std, value - reach, value + reach)


def _prepared(generated: Features, real: Statistics | Features) -> tuple[np.ndarray, DistanceTo]:
    origins: tuple[Origin | None, ...] = (generated.origin, real.origin)
    check_comparable(*origins)
    features = np.asarray(generated.pooled, np.float64)
    if len(features) < 2:
        raise ValueError(f"two generated images at least are needed; got {len(features)}")
    statistics = real.statistics if isinstance(real, Features) else real
    if features.shape[1] != len(statistics.mean):
        raise ValueError(
            f"{features.shape[1]} features cannot be compared with {len(statistics.mean)}"
        )
    return features, DistanceTo(statistics)

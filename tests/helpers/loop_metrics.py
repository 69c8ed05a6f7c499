"""Small feature extractors, for tests of metrics whose images stay on the devices."""

from __future__ import annotations

import functools

import jax
import numpy as np

from inception_jax import metrics
from tests.helpers import metric_sets
from tests.helpers.metric_sets import extractor, network

__all__ = ["extractor", "network", "pictures", "small", "tiny"]


def pictures(n: int, seed: int = 0, size: tuple[int, int] = (24, 31), low: int = 0) -> np.ndarray:
    return metric_sets.pictures(n, seed, size, low)


def tiny(images: jax.Array) -> jax.Array:
    """Returns the colours of four pixels of each 16 x 16 image, as twelve features.

    They are exact, and the function compiles quickly.
    """
    return images[:, ::8, ::8].reshape(-1, 12)


@functools.cache
def small(**options) -> metrics.Extractor:
    own = metrics.OwnFeatures(tiny, "quarters", size=16)
    return metrics.Extractor(features=own, **options)

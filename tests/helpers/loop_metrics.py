"""Small extractors and images, for tests of metrics whose images stay on the devices."""

from __future__ import annotations

import functools

import jax
import numpy as np

from inception_jax import metrics
from tests.helpers.networks import CLASSES, WIDTH, filled


def pictures(n: int, seed: int = 0, size: tuple[int, int] = (24, 31), low: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(low, 256, (n, *size, 3), np.uint8)


@functools.cache
def network():
    return filled("inception_v3.fid", width_multiplier=WIDTH, num_classes=CLASSES)


@functools.cache
def extractor(**options) -> metrics.Extractor:
    return metrics.Extractor(network(), **{"batch_size": 4, **options})


def tiny(images: jax.Array) -> jax.Array:
    """Twelve features that compile in no time, and are exact: the colours of four pixels."""
    return images[:, ::8, ::8].reshape(-1, 12)


@functools.cache
def small(**options) -> metrics.Extractor:
    own = metrics.OwnFeatures(tiny, "quarters", size=16)
    return metrics.Extractor(features=own, **options)

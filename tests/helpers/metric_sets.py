"""Images, features and a narrow network for tests of metrics."""

from __future__ import annotations

import functools

import numpy as np
import scipy.linalg
from PIL import Image

from inception_jax import metrics
from tests.helpers.networks import CLASSES, WIDTH, filled


def pictures(n: int, seed: int = 0, size: tuple[int, int] = (60, 70), low: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(low, 256, (n, *size, 3), np.uint8)


def write(folder, images, ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.{ending}")
    return folder


@functools.cache
def network():
    return filled("inception_v3.fid", width_multiplier=WIDTH, num_classes=CLASSES)


@functools.cache
def extractor(**options) -> metrics.Extractor:
    """Returns a feature extractor with a narrow network, compiled once per set of options.

    `options` are those of `metrics.Extractor`.
    """
    return metrics.Extractor(network(), **{"batch_size": 4, **options})


def random_features(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) / np.sqrt(d)) + rng.normal()


def scipys_distance(a: np.ndarray, b: np.ndarray) -> float:
    apart = a.mean(0) - b.mean(0)
    covs = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    root = scipy.linalg.sqrtm(covs[0] @ covs[1])
    return apart @ apart + np.trace(covs[0]) + np.trace(covs[1]) - 2 * np.trace(root).real


def exact_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the Fréchet distance of two sets of features, without a matrix root.

    The trace of the root equals the nuclear norm of the product of the centred features, if each
    set of n features is divided by the root of n - 1.
    """
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    nuclear = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    traces = sum((x**2).sum() for x in centred)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * nuclear


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return metrics.frechet_distance(metrics.Statistics.of(a), metrics.Statistics.of(b))

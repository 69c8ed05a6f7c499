"""The Kernel Inception Distance of features."""

from __future__ import annotations

import warnings

import numpy as np

from inception_jax.metrics.metric_values import MeanStd


def kernel_distance(
    a: np.ndarray, b: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> MeanStd:
    """Returns the squared maximum mean discrepancy with the kernel (x·y / d + 1)³, unbiased.

    It is the mean over pairs of random subsets, drawn without replacement. The draws are those of
    torch-fidelity: the same features and seed give its number, up to its rounding in float32; here
    everything is summed in float64. Around 0 it may be negative.

    If a set is smaller than a subset, subsets are of its size. If both are of that size there is
    one estimate, of all images, and no deviation: it is NaN.

    Source: Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401.

    Args:
        a: features [n, d].
        b: features [m, d].
        subsets: how many.
        subset_size: images in each.
        seed: of the draws.

    Returns:
        The mean over subsets, and the standard deviation over them, not of the mean.

    Raises:
        ValueError: for fewer than two images, or different d.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{a.shape[1]} features cannot be compared with {b.shape[1]}")
    if min(len(a), len(b), subset_size) < 2 or subsets < 1:
        raise ValueError("two images at least are needed in each set and subset, and one subset")
    smallest = min(len(a), len(b))
    if smallest < subset_size:
        deviation = (
            "without a standard deviation, as there is but one such subset"
            if len(a) == len(b)
            else "but its standard deviation says too little"
        )
        warnings.warn(
            f"KID of subsets of {smallest} images, all of the smaller set, instead of "
            f"{subset_size}: still unbiased, {deviation}",
            stacklevel=2,
        )
        subset_size = smallest
    if len(a) == len(b) == subset_size:
        return MeanStd(_discrepancy(a, b), float("nan"))
    rng = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        ours = a[rng.choice(len(a), subset_size, replace=False)]
        theirs = b[rng.choice(len(b), subset_size, replace=False)]
        found.append(_discrepancy(ours, theirs))
    return MeanStd(float(np.mean(found)), float(np.std(found)))


def _discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return _mean_of_pairs(a) + _mean_of_pairs(b) - 2 * float(_kernel(a, b).mean())


def _mean_of_pairs(x: np.ndarray) -> float:
    """The mean of the kernel over pairs of different images."""
    kernel = _kernel(x, x)
    return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    product = x @ y.T / x.shape[1] + 1
    return product * product * product  # a power takes ten times as long

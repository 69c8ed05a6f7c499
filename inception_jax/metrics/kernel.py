"""The Kernel Inception Distance, computed from features."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np

from inception_jax.metrics.draws import Draws, subset_pairs
from inception_jax.metrics.metric_values import MeanStd

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def kernel_distance(
    a: np.ndarray,
    b: np.ndarray,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    draws: Draws = "torch_fidelity",
    dtype: Literal["float64", "float32"] = "float64",
    sigma: float | None = None,
) -> MeanStd:
    """Returns the unbiased estimate of the squared maximum mean discrepancy (KID).

    The kernel is (x·y / d + 1)³. With a `sigma`, it is exp(-|x - y|² / (2 sigma²)). torch-fidelity
    calls this kernel "rbf"; its default `sigma` is 10.

    The estimate is the mean over pairs of random subsets, drawn without replacement. It can be
    negative if the distance is near 0.

    The programs named by `draws` sum the kernel in float32. The last two or three digits are then
    wrong if KID is small compared with the kernel. With dtype "float32", all digits agree with
    torch-fidelity's or clean-fid's. torchmetrics' last digits depend on how PyTorch sums on a
    machine. With dtype "float64", all digits are correct.

    If a set is smaller than `subset_size`, subsets have the size of the smaller set, with a
    warning. If both sets have the size of a subset, only one pair of subsets is possible, and the
    standard deviation is NaN.

    Source: Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401.

    Args:
        a: features [n, d] of the generated images.
        b: features [m, d] of the real images.
        subsets: number of subsets.
        subset_size: number of images in each subset.
        seed: seed of the draws.
        draws: program to imitate; see `draws.subset_pairs`.
        dtype: dtype in which the kernel is computed and summed.
        sigma: width of the Gaussian kernel; None: the polynomial kernel.

    Returns:
        A `MeanStd`: mean and standard deviation over the pairs of subsets. The standard deviation
        is not the standard error of the mean.

    Raises:
        ValueError: for fewer than two images in a set, or different numbers of features.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{a.shape[1]} features cannot be compared with {b.shape[1]}")
    if min(len(a), len(b), subset_size) < 2 or subsets < 1:
        raise ValueError("each set and subset needs at least two images; one subset is needed")
    smallest = min(len(a), len(b))
    if smallest < subset_size:
        deviation = (
            "without a standard deviation, because there is only one such subset"
            if len(a) == len(b)
            else "but its standard deviation says little"
        )
        warnings.warn(
            f"KID uses subsets of {smallest} images, the whole smaller set, instead of "
            f"{subset_size}: still unbiased, {deviation}",
            stacklevel=2,
        )
        subset_size = smallest
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma must be above 0, not {sigma}")
    a, b = a.astype(dtype), b.astype(dtype)
    kernel = _polynomial if sigma is None else functools.partial(_gaussian, sigma=sigma)
    if len(a) == len(b) == subset_size:
        subsets = 1 if dtype == "float64" else subsets  # all images each time: only rounding varies
    pairs = subset_pairs(len(a), len(b), subset_size, subsets, draws=draws, seed=seed)
    discrepancy = _cleans_discrepancy if draws == "clean" else _discrepancy
    found = [discrepancy(a[ours], b[theirs], kernel) for ours, theirs in pairs]
    deviation = float("nan") if len(a) == len(b) == subset_size else float(np.std(found))
    return MeanStd(float(np.mean(found)), deviation)


def _discrepancy(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> float:
    """Returns the KID estimate for subsets [n, d] of equal size, with torch-fidelity's rounding.

    It sums row by row, as torch-fidelity does.
    """
    count = len(a)
    pairs = _sum_of_pairs(a, kernel) + _sum_of_pairs(b, kernel)
    return float(pairs / (count * (count - 1)) - 2 * kernel(a, b).sum(0).sum() / count**2)


def _cleans_discrepancy(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> float:
    """Returns the KID estimate for subsets [n, d] of equal size, with clean-fid's rounding.

    It sums all elements of a kernel matrix at once, as clean-fid does.
    """
    count = len(a)
    own = kernel(b, b) + kernel(a, a)
    pairs = (own.sum() - np.diagonal(own).sum()) / (count - 1)
    return float((pairs - kernel(b, a).sum() * 2 / count) / count)


def _sum_of_pairs(x: np.ndarray, kernel: Kernel) -> np.floating:
    """Returns the sum of the kernel over all ordered pairs of different images in a set."""
    found = kernel(x, x)
    return (found.sum(1) - np.diagonal(found)).sum()


def _gaussian(x: np.ndarray, y: np.ndarray, sigma: float) -> np.ndarray:
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * (x @ y.T)
    return np.exp(np.maximum(squares, 0) * x.dtype.type(-0.5 / sigma**2))


def _polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    product = x @ y.T * x.dtype.type(1 / x.shape[1]) + x.dtype.type(1)
    if product.dtype == np.float32:
        return product**3  # the programs' rounding
    return product * product * product  # a power takes ten times as long

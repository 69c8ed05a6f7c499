"""The Kernel Inception Distance of features."""

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
    """Returns the squared maximum mean discrepancy with the kernel (x·y / d + 1)³, unbiased.

    With a `sigma` the kernel is exp(-|x - y|² / (2 sigma²)), as torch-fidelity's "rbf", which has
    10 by default.

    It is the mean over pairs of random subsets, drawn without replacement. By default the draws are
    those of torch-fidelity. Around 0 it may be negative.

    The programs sum the kernel in float32, which costs the last two or three digits where KID is
    small beside the kernel. With "float32" those digits are torch-fidelity's or clean-fid's, by the
    draws; "float64" is exact. torchmetrics' last digits are of PyTorch's sums on that machine.

    If a set is smaller than a subset, subsets are of its size. If both are of that size there is
    one estimate, of all images, and no deviation: it is NaN.

    Source: Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401.

    Args:
        a: features [n, d] of the generated images.
        b: features [m, d] of the real ones.
        subsets: how many.
        subset_size: images in each.
        seed: of the draws.
        draws: whose way of drawing; see `draws.subset_pairs`.
        dtype: in which the kernel is computed and summed.
        sigma: of the Gaussian kernel; None: the polynomial one.

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
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma must be above 0, not {sigma}")
    a, b = a.astype(dtype), b.astype(dtype)
    kernel = _polynomial if sigma is None else functools.partial(_gaussian, sigma=sigma)
    if len(a) == len(b) == subset_size:
        subsets = 1 if dtype == "float64" else subsets  # they differ by their rounding only
    pairs = subset_pairs(len(a), len(b), subset_size, subsets, draws=draws, seed=seed)
    discrepancy = _cleans_discrepancy if draws == "clean" else _discrepancy
    found = [discrepancy(a[ours], b[theirs], kernel) for ours, theirs in pairs]
    deviation = float("nan") if len(a) == len(b) == subset_size else float(np.std(found))
    return MeanStd(float(np.mean(found)), deviation)


def _discrepancy(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> float:
    """Summed row by row, in which torch-fidelity's rounding lies."""
    count = len(a)
    pairs = _sum_of_pairs(a, kernel) + _sum_of_pairs(b, kernel)
    return float(pairs / (count * (count - 1)) - 2 * kernel(a, b).sum(0).sum() / count**2)


def _cleans_discrepancy(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> float:
    """The same, summed at once as clean-fid does."""
    count = len(a)
    own = kernel(b, b) + kernel(a, a)
    pairs = (own.sum() - np.diagonal(own).sum()) / (count - 1)
    return float((pairs - kernel(b, a).sum() * 2 / count) / count)


def _sum_of_pairs(x: np.ndarray, kernel: Kernel) -> np.floating:
    """The sum of the kernel over pairs of different images."""
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

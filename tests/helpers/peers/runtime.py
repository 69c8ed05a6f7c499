"""The common interface of original implementations, whichever package runs them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Size = tuple[int, int]  # height and width
DTYPES = ("float64", "float32")


class AbsentRuntimeError(Exception):
    """The package of an original implementation, or a part of the package, is not installed."""


class Theirs(Protocol):
    """An original implementation with random kernels and BatchNorm statistics.

    A few running variances are tiny, see the function `hostile`.

    Attributes:
        dtypes: dtypes in which the network can compute; the widest is first.
    """

    dtypes: tuple[str, ...]

    def write(self, folder: Path) -> list[Path]:
        """Writes the weights in every format of the original implementation; returns the paths."""
        ...

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits of images [n, h, w, c], computed in the images' dtype."""
        ...


def library(name: str) -> Any:
    """Imports a module of an original implementation.

    Raises:
        AbsentRuntimeError: if the module cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AbsentRuntimeError(f"{name} cannot be imported: {error}") from error


def hostile(
    rng: np.random.Generator, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Randomly changes a batch's mean and variance, and sets a few variances to 1e-14.

    In channels with such a tiny variance, BatchNorm's epsilon decides the result.

    Args:
        rng: generator of the changes.
        mean: mean of each channel.
        variance: variance of each channel.

    Returns:
        The new mean, the new variance, and a boolean mask of the channels with tiny variances. The
        caller must scale these channels down; otherwise they would dominate all other channels.
    """
    mean = mean + 0.3 * np.sqrt(variance) * rng.normal(size=mean.shape)
    few = rng.uniform(size=mean.shape) < 0.01
    variance = np.where(few, 1e-14, variance * rng.uniform(0.7, 1.4, variance.shape))
    return mean.astype(np.float32), variance.astype(np.float32), few


def kernel(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Returns a random kernel after which a ReLU keeps the size of the signal.

    `fan_in` is the number of inputs of which each output is a weighted sum.
    """
    return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)

"""The interface of a publisher's network, whichever package runs it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Size = tuple[int, int]  # height and width
DTYPES = ("float64", "float32")


class AbsentRuntimeError(Exception):
    """A publisher's package, or a part of it, is not installed."""


class Theirs(Protocol):
    """A publisher's network with random kernels and hostile statistics, see `hostile`.

    Attributes:
        dtypes: the dtypes in which it can compute.
    """

    dtypes: tuple[str, ...]

    def write(self, folder: Path) -> list[Path]:
        """Writes its weights in every format that the publisher's code has; returns the paths."""
        ...

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits of images [n, h, w, c], computed in their dtype."""
        ...


def library(name: str) -> Any:
    """Imports a publisher's module.

    Raises:
        AbsentRuntimeError: if the module, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AbsentRuntimeError(f"{name} cannot be imported: {error}") from error


def hostile(
    rng: np.random.Generator, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shifts a batch's statistics, and sets a few variances to 1e-14, where epsilon decides.

    Returns:
        The mean, the variance, and a mask of the channels with tiny variances. The caller must
        scale these channels down, or they would dominate all others.
    """
    mean = mean + 0.3 * np.sqrt(variance) * rng.normal(size=mean.shape)
    few = rng.uniform(size=mean.shape) < 0.01
    variance = np.where(few, 1e-14, variance * rng.uniform(0.7, 1.4, variance.shape))
    return mean.astype(np.float32), variance.astype(np.float32), few


def kernel(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Draws a kernel that keeps the size of a signal through a ReLU."""
    return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)

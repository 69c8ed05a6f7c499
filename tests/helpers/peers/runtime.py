"""What a publisher's runtime gives, whichever it is."""

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
    """A publisher's network, its kernels and statistics random and hostile.

    Attributes:
        dtypes: what it can compute in.
    """

    dtypes: tuple[str, ...]

    def write(self, folder: Path) -> list[Path]:
        """Writes its weights in each of the forms that the publisher's code has for them."""
        ...

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits of images [n, h, w, c], computed in their dtype."""
        ...


def library(name: str) -> Any:
    """Imports a module of a publisher.

    Raises:
        AbsentRuntimeError: if it is not installed, or something that it needs.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AbsentRuntimeError(f"{name} cannot be imported: {error}") from error


def hostile(
    rng: np.random.Generator, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moves a batch's statistics, and lets a few variances fall to 1e-14, where epsilon decides.

    Returns:
        The mean, the variance, and which channels fell: what they multiply is to be made small, or
        they would drown all others.
    """
    mean = mean + 0.3 * np.sqrt(variance) * rng.normal(size=mean.shape)
    few = rng.uniform(size=mean.shape) < 0.01
    variance = np.where(few, 1e-14, variance * rng.uniform(0.7, 1.4, variance.shape))
    return mean.astype(np.float32), variance.astype(np.float32), few


def kernel(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Draws a kernel that keeps the size of a signal through a ReLU."""
    return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)

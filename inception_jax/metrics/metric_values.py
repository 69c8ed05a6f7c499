"""What metrics return."""

from __future__ import annotations

from typing import NamedTuple


class MeanStd(NamedTuple):
    """A mean over subsets of the images, and the standard deviation over them."""

    mean: float
    std: float


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1."""

    precision: float
    recall: float

"""Types of the values that metrics return."""

from __future__ import annotations

from typing import NamedTuple


class MeanStd(NamedTuple):
    """Mean and standard deviation over subsets of the images."""

    mean: float
    std: float


class PrecisionRecall(NamedTuple):
    """Precision and recall, each a share of images from 0 to 1."""

    precision: float
    recall: float

    @property
    def f_score(self) -> float:
        """Harmonic mean of precision and recall, as torch-fidelity computes it."""
        return 2 * self.precision * self.recall / max(1e-5, self.precision + self.recall)


class DensityCoverage(NamedTuple):
    """Density, which may be above 1, and coverage, a share of images from 0 to 1."""

    density: float
    coverage: float


class Interval(NamedTuple):
    """An estimate, its standard error, and the bounds of a confidence interval."""

    value: float
    std: float
    low: float
    high: float

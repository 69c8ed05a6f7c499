"""What metrics return."""

from __future__ import annotations

from typing import NamedTuple


class MeanStd(NamedTuple):
    """Mean and standard deviation over subsets of the images."""

    mean: float
    std: float


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1."""

    precision: float
    recall: float

    @property
    def f_score(self) -> float:
        """The harmonic mean of both, as torch-fidelity computes it."""
        return 2 * self.precision * self.recall / max(1e-5, self.precision + self.recall)


class DensityCoverage(NamedTuple):
    """Density may be above 1; coverage is a share from 0 to 1."""

    density: float
    coverage: float


class Interval(NamedTuple):
    """An estimate, its standard error, and the bounds of a confidence interval."""

    value: float
    std: float
    low: float
    high: float

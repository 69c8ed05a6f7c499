"""Statistics for benchmarks/tricks.py: measures of one run, and comparisons of two arms.

An arm is one way to train one network. It has one run for each seed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

Direction = Literal["higher", "lower", "equal", "open"]
Verdict = Literal["seen", "not seen at this scale", "reversed", "no claim"]

BINS = 10  # number of bins of the confidence, for the calibration error


@dataclasses.dataclass
class Run:
    """The results of one training run.

    Attributes:
        losses: training loss of every step.
        curve: pairs of a step and the test top-1 accuracy in [0, 1], at equal intervals. With
            weight averaging, the accuracy is that of the averaged weights.
        raw_curve: pairs of a step and the test top-1 accuracy of the weights without averaging;
            empty if there is no averaging.
        loss: cross-entropy of the test images at the end.
        ece: expected calibration error of the test images at the end.
        gap: result of `logit_gap` for the test images at the end.
        bins: share of images, mean confidence and accuracy for each bin of the confidence.
        seconds: CPU time of the run.
    """

    losses: list[float]
    curve: list[tuple[int, float]]
    raw_curve: list[tuple[int, float]]
    loss: float
    ece: float
    gap: float
    bins: list[tuple[float, float, float]]
    seconds: float


class Interval(NamedTuple):
    """A mean, and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number that is computed from the results of a run.

    Attributes:
        name: name in tables.
        of: function that computes the number.
        unit: unit of the number.
        digits: number of decimals in tables.
    """

    name: str
    of: Callable[[Run], float]
    unit: str
    digits: int = 1


def paired_interval(differences: Sequence[float], level: float = 0.95) -> Interval:
    """Returns the mean of paired differences and Student's confidence interval.

    Args:
        differences: one difference for each seed.
        level: confidence level.

    Raises:
        ValueError: for fewer than two differences.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"an interval needs two pairs at least; got {count}")
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    reach = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


def verdict(interval: Interval, claim: Direction, margin: float = 0.0) -> Verdict:
    """Returns whether a confidence interval agrees with a claim, as one of the words in `Verdict`.

    Args:
        interval: confidence interval of the difference that the claim is about.
        claim: claim about the difference; "open": nothing is claimed.
        margin: the largest difference that still counts as equal.
    """
    if claim == "open":
        return "no claim"
    if not all(map(math.isfinite, interval)):
        return "not seen at this scale"
    if claim == "equal":
        if -margin <= interval.low and interval.high <= margin:
            return "seen"
        apart = interval.low > 0 or interval.high < 0
        return "reversed" if apart else "not seen at this scale"
    agrees, disagrees = interval.low > 0, interval.high < 0
    if claim == "lower":
        agrees, disagrees = disagrees, agrees
    return "seen" if agrees else "reversed" if disagrees else "not seen at this scale"


def calibration(logits: np.ndarray, labels: np.ndarray) -> list[tuple[float, float, float]]:
    """Returns the share of images, mean confidence and accuracy for each bin of the confidence.

    The confidence is the largest predicted probability of an image. Bins have equal widths. Source:
    Guo et al. 2017, arXiv:1706.04599, section 2.

    Args:
        logits: logits [n, classes].
        labels: labels [n].
    """
    wide = logits.astype(np.float64)
    odds = np.exp(wide - wide.max(1, keepdims=True))
    confidence = (odds / odds.sum(1, keepdims=True)).max(1)
    hits = wide.argmax(1) == labels
    which = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for i in range(BINS):
        own = which == i
        filled = bool(own.any())
        means = (confidence[own].mean(), hits[own].mean()) if filled else (0.0, 0.0)
        bins.append((float(own.mean()), *map(float, means)))
    return bins


def calibration_error(bins: Sequence[tuple[float, float, float]]) -> float:
    """Returns the expected calibration error.

    This is the mean over all bins of the absolute difference between confidence and accuracy. Bins
    are weighted by their share of images.

    Args:
        bins: result of `calibration`.
    """
    return sum(share * abs(confidence - hits) for share, confidence, hits in bins)


def logit_gap(logits: np.ndarray) -> float:
    """Returns the mean logit gap of images: the largest logit minus the mean of the other logits.

    Args:
        logits: logits [n, classes].
    """
    others = (logits.sum(1) - logits.max(1)) / (logits.shape[1] - 1)
    return float((logits.max(1) - others).mean())


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean cross-entropy of logits [n, classes] and labels [n]."""
    wide = logits.astype(np.float64)
    wide = wide - wide.max(1, keepdims=True)
    own = np.take_along_axis(wide, labels[:, None], 1)[:, 0]
    return float((np.log(np.exp(wide).sum(1)) - own).mean())


def steps_to(accuracy: float) -> Callable[[Run], float]:
    """Returns a function that computes how many steps a run needs to reach a test accuracy.

    The function interpolates linearly between two evaluations. If a run never reaches the accuracy,
    the function returns the run's last step. `accuracy` is top-1 in [0, 1].
    """

    def steps(run: Run) -> float:
        points = [(0, 0.0), *run.curve]
        for (step, low), (after, high) in itertools.pairwise(points):
            if high >= accuracy:
                return step + (after - step) * (accuracy - low) / (high - low)
        return float(points[-1][0])

    return steps


def _early(run: Run) -> float:
    return 100 * run.curve[max(len(run.curve) // 4 - 1, 0)][1]


def _mean(run: Run) -> float:
    return 100 * float(np.mean([top1 for _, top1 in run.curve]))


TOP1 = Measure("top-1 at the end", lambda run: 100 * run.curve[-1][1], "points")
RAW = Measure("top-1 without averaging", lambda run: 100 * run.raw_curve[-1][1], "points")
EARLY = Measure("top-1 after a quarter of the steps", _early, "points")
SPEED = Measure("mean top-1 over the run", _mean, "points")
STEPS = Measure("steps to 60 % top-1", steps_to(0.6), "steps", 0)
LOSS = Measure("test loss", lambda run: run.loss, "nats", 3)
ECE = Measure("calibration error", lambda run: 100 * run.ece, "points")
GAP = Measure("logit gap", lambda run: run.gap, "logits", 2)
PEAK = Measure("largest training loss", lambda run: max(run.losses), "nats", 2)

"""Plots the figures of docs/tricks.md: learning curves of arms, and differences between arms.

An arm is one way to train one network.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.trick_list import Claim, Trick
from benchmarks.trick_statistics import BINS, ECE, RAW, Run, paired_interval

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Differences = Sequence[float]


def draw(
    trick: Trick, runs: Mapping[str, list[Run]], differences: Sequence[Differences], path: Path
) -> None:
    """Plots the learning curves of a trick's arms, and the differences between the arms.

    If a claim is about calibration, a reliability diagram is added.

    Args:
        trick: trick to plot.
        runs: runs by name of the arm; each arm has one run for each seed.
        differences: for each claim, the result of `tricks.differences`.
        path: path of the picture to write.
    """
    units = list(dict.fromkeys(claim.measure.unit for claim in trick.claims))
    reliability = any(claim.measure is ECE for claim in trick.claims)
    columns = 1 + reliability + len(units)
    figure, axes = plt.subplots(1, columns, figsize=(4.6 * columns, 4.2), layout="constrained")
    _curves(axes[0], trick, runs)
    if reliability:
        _reliability(axes[1], runs)
    for ax, unit in zip(axes[1 + reliability :], units, strict=True):
        rows = [(c, d) for c, d in zip(trick.claims, differences, strict=True)]
        _differences(ax, unit, [(c, d) for c, d in rows if c.measure.unit == unit])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _curves(ax: Any, trick: Trick, runs: Mapping[str, list[Run]]) -> None:
    for i, (name, own) in enumerate(runs.items()):
        _curve(ax, name, [run.curve for run in own], f"C{i}")
    for claim in trick.claims:
        if claim.other_measure is RAW:
            raw = [run.raw_curve for run in runs[claim.other]]
            _curve(ax, "the same, without averaging", raw, f"C{len(runs)}")
    ax.set(title="test top-1, %: mean, and each seed", xlabel="step")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def _curve(ax: Any, name: str, curves: Sequence[Sequence[tuple[int, float]]], colour: str) -> None:
    steps = [step for step, _ in curves[0]]
    values = 100 * np.array([[top1 for _, top1 in curve] for curve in curves])
    ax.plot(steps, values.T, color=colour, lw=0.6, alpha=0.35)
    ax.plot(steps, values.mean(0), color=colour, lw=2, label=name)


def _reliability(ax: Any, runs: Mapping[str, list[Run]]) -> None:
    ax.plot([0, 1], [0, 1], color="grey", lw=0.8, ls="--")
    for name, own in runs.items():
        bins = np.array([run.bins for run in own])  # seeds, bins, (share, confidence, hits)
        weights = bins[..., 0].sum(0)
        filled = weights > 0.005 * BINS / 10 * len(own)
        means = (bins[..., :1] * bins[..., 1:]).sum(0)[filled] / weights[filled, None]
        ax.plot(means[:, 0], means[:, 1], marker="o", ms=4, label=name)
    ax.set(title="share of hits, by confidence", xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def _differences(ax: Any, unit: str, rows: Sequence[tuple[Claim, Differences]]) -> None:
    for i, (claim, values) in enumerate(rows):
        found = paired_interval(values)
        ax.plot(values, [i + 0.16] * len(values), "o", color="grey", ms=4, alpha=0.6)
        ax.plot([found.low, found.high], [i, i], color="C0", lw=2)
        ax.plot(found.mean, i, "o", color="C0", ms=6)
        if claim.margin:
            ax.fill_betweenx([i - 0.3, i + 0.3], -claim.margin, claim.margin, color="C2", alpha=0.1)
    labels = [_label(claim) for claim, _ in rows]
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(rows)), labels, fontsize=8)
    ax.set(ylim=(len(rows) - 0.5, -0.5), title="paired difference, 95 %", xlabel=unit)
    ax.grid(alpha=0.3, axis="x")


def _label(claim: Claim) -> str:
    other = claim.other_measure.name if claim.other_measure else claim.other
    sign = {"higher": "above 0", "lower": "below 0", "equal": "none", "open": "nothing"}[
        claim.direction
    ]
    lines = [claim.arm, f"minus {other}:", claim.measure.name, f"(claimed: {sign})"]
    return "\n".join(part for line in lines for part in textwrap.wrap(line, 34))

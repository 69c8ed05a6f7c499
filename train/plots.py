"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from train.reporting import read_metrics

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_ROWS, _COLUMNS = 5, 10


def draw_curves(workdir: Path, title: str) -> None:
    """Draws losses and accuracies over epochs from `metrics.jsonl` as `curves.svg`."""
    entries = read_metrics(workdir)
    train = [e for e in entries if e["kind"] == "train"]
    evals = [e for e in entries if e["kind"] == "eval"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(
        [e["epoch"] for e in train],
        [e["loss"] for e in train],
        label="training loss, smoothed labels",
    )
    left.plot([e["epoch"] for e in evals], [e["eval_loss"] for e in evals], "o-", label="test loss")
    left.set(xlabel="epoch", ylabel="loss")
    right.plot([e["epoch"] for e in train], [e["accuracy"] for e in train], label="training batch")
    for key, label in (("eval_top1", "test, averaged weights"), ("eval_top1_raw", "test, raw")):
        right.plot([e["epoch"] for e in evals], [e[key] for e in evals], "o-", label=label)
    right.set(xlabel="epoch", ylabel="top-1 accuracy", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    figure.savefig(workdir / "curves.svg")
    plt.close(figure)


def draw_predictions(
    workdir: Path,
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Draws test images with label and prediction as `predictions.png`, wrong ones in red."""
    chosen = [int(i) for i in np.linspace(0, len(labels) - 1, _ROWS * _COLUMNS)]
    figure, grid = plt.subplots(_ROWS, _COLUMNS, figsize=(14, 8.6), layout="constrained")
    for axes, i in zip(grid.flat, chosen, strict=True):
        right = predictions[i] == labels[i]
        axes.imshow(images[i].squeeze(), cmap="gray")
        axes.set_title(classes[predictions[i]], color="green" if right else "red", fontsize=9)
        axes.set_xlabel("" if right else f"is {classes[labels[i]]}", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(f"Predictions on {len(labels)} test images, {_ROWS * _COLUMNS} shown")
    figure.savefig(workdir / "predictions.png", dpi=80)
    plt.close(figure)

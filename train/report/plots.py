"""Plots a run: learning curves, predictions on test images, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from train.report.reporter import read_metrics
from train.report.text import drawable
from train.storage import atomic_write

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_MOST = 50  # images in `predictions.png`
_NAMED_CLASSES = 60
_CELL = 1.6  # width in inches of an image with its title
_NAME = 18  # characters that fit above an image


def draw_curves(workdir: Path, title: str) -> None:
    """Plots `curves.svg`: losses and accuracies over epochs, from `metrics.jsonl`.

    The losses of training and evaluation are cross-entropies of the main classifier, without label
    smoothing.
    """
    figure = curves(read_metrics(workdir))
    figure.suptitle(title)
    _save(figure, workdir / "curves.svg")


def curves(entries: Sequence[dict[str, Any]]) -> Any:
    """Returns a matplotlib figure of losses and accuracies over epochs.

    Args:
        entries: entries of `metrics.jsonl`.
    """
    train = [e for e in entries if e["kind"] == "train" and "cross_entropy" in e]
    evals = [e for e in entries if e["kind"] == "eval"]
    averages = any(e["eval_loss"] != e["eval_loss_raw"] for e in evals)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs, style = [e["epoch"] for e in train], dict(color="tab:blue", alpha=0.7)
    left.plot(epochs, [e["cross_entropy"] for e in train], label="training batches", **style)
    right.plot(epochs, [e["accuracy"] for e in train], label="training batches", **style)
    named = {"": "test, averaged weights" if averages else "test"}
    named |= {"_raw": "test, weights of the step"} if averages else {}
    for (suffix, label), color in zip(named.items(), ("tab:orange", "tab:green"), strict=False):
        for axes, key in ((left, "eval_loss"), (right, "eval_top1")):
            values = [e[f"{key}{suffix}"] for e in evals]
            axes.plot([e["epoch"] for e in evals], values, "o-", ms=4, color=color, label=label)
    left.set(xlabel="epoch", ylabel="cross-entropy, labels not smoothed", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="top-1 accuracy", ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure


def choose(candidates: np.ndarray) -> np.ndarray:
    """Returns evenly spaced items of an array, at most as many as `predictions.png` can show."""
    count = min(len(candidates), _MOST)
    return candidates[np.linspace(0, len(candidates) - 1, count).astype(int)]


def draw_predictions(
    workdir: Path,
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    predictions: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Draws `predictions.png`: test images with predictions, wrong ones in red with the label."""
    count = len(images)
    columns = max(min(count, 10, math.ceil(math.sqrt(2 * count))), 3)  # three: room for the title
    rows = max(math.ceil(count / columns), 1)
    size = (columns * _CELL, rows * (_CELL + 0.2) + 0.5)
    names = drawable(classes, _NAME)  # before the figure, which keeps the fonts it is made with
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, label, prediction in zip(grid.flat, images, labels, predictions, strict=False):
        right = prediction == label
        axes.set_axis_on()
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(names[prediction], color="green" if right else "red", fontsize=8)
        axes.set_xlabel("" if right else f"is {names[label]}", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(f"Predictions on {count} test images")
    _save(figure, workdir / "predictions.png", dpi=80)


def draw_confusion(workdir: Path, counts: np.ndarray, classes: Sequence[str]) -> None:
    """Plots `confusion.png`: the confusion matrix, with labels as rows and predictions as columns.

    Args:
        workdir: folder to write to.
        counts: numbers of images [classes, classes].
        classes: names of the classes, shown if there is room.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = len(classes) <= _NAMED_CLASSES
    side = max(2.5 + 0.45 * len(classes), 4.2) if few else 10  # 4.2: room for the title
    names = drawable(classes, 20) if few else []
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(picture, label="share of the images of a class", shrink=0.7)
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_title(_mean_accuracy(counts), fontsize=10)
    if few:
        flat = len(names) <= 3 and max(map(len, names)) <= 10
        axes.set_xticks(range(len(names)), names, rotation=0 if flat else 90)
        axes.set_yticks(range(len(names)), names)
    if len(classes) <= 12:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, count, ha="center", va="center", color=color, fontsize=8)
    _save(figure, workdir / "confusion.png", dpi=100, bbox_inches="tight")


def _save(figure: Any, path: Path, dpi: int | None = None, **options: Any) -> None:
    try:
        with atomic_write(path) as partial:
            figure.savefig(partial, dpi=dpi or "figure", format=path.suffix[1:], **options)
    finally:
        plt.close(figure)


def _mean_accuracy(counts: np.ndarray) -> str:
    images, hits = counts.sum(1), counts.diagonal()
    accuracy = hits[images > 0] / images[images > 0]
    return (
        f"top-1 {hits.sum() / images.sum():.1%}\nby class {accuracy.min():.1%} to "
        f"{accuracy.max():.1%}, mean {accuracy.mean():.1%}"
    )

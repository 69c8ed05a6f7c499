"""Pictures of a run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from inception_jax.outputs import atomic_write
from train.report.reporter import read_metrics

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Names of classes in scripts that matplotlib's own font lacks: the picture has boxes, which say so.
warnings.filterwarnings("ignore", message="Glyph .* missing from font")

_ROWS, _COLUMNS = 5, 10
_NAMED_CLASSES = 60


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
    _save(figure, workdir / "curves.svg")


def choose(candidates: np.ndarray) -> np.ndarray:
    """Returns as many of the candidates as `draw_predictions` has room for, evenly spread."""
    count = min(len(candidates), _ROWS * _COLUMNS)
    return candidates[np.linspace(0, len(candidates) - 1, count).astype(int)]


def draw_predictions(
    workdir: Path,
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    predictions: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Draws test images with label and prediction as `predictions.png`, wrong ones in red."""
    figure, grid = plt.subplots(_ROWS, _COLUMNS, figsize=(14, 8.6), layout="constrained")
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, label, prediction in zip(grid.flat, images, labels, predictions, strict=False):
        right = prediction == label
        axes.set_axis_on()
        axes.imshow(image.squeeze(), cmap="gray")
        axes.set_title(_short(classes[prediction]), color="green" if right else "red", fontsize=9)
        axes.set_xlabel("" if right else f"is {_short(classes[label])}", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(f"Predictions on {len(images)} test images")
    _save(figure, workdir / "predictions.png", dpi=80)


def draw_confusion(workdir: Path, counts: np.ndarray, classes: Sequence[str]) -> None:
    """Draws how often each class (row) is taken for each (column) as `confusion.png`.

    Args:
        workdir: where to.
        counts: images [classes, classes].
        classes: their names, written beside the picture if there is room.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = len(classes) <= _NAMED_CLASSES
    side = 2.5 + 0.45 * len(classes) if few else 10
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(picture, label="share of the images of a class", shrink=0.7)
    axes.set(xlabel="prediction", ylabel="label", title=_mean_accuracy(counts))
    if few:
        names = [_short(name) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(classes) <= 12:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, count, ha="center", va="center", color=color, fontsize=8)
    _save(figure, workdir / "confusion.png", dpi=100)


def _save(figure: Any, path: Path, dpi: int | None = None) -> None:
    try:
        with atomic_write(path) as partial:
            figure.savefig(partial, dpi=dpi or "figure", format=path.suffix[1:])
    finally:
        plt.close(figure)


def _mean_accuracy(counts: np.ndarray) -> str:
    images, hits = counts.sum(1), counts.diagonal()
    accuracy = hits[images > 0] / images[images > 0]
    return (
        f"top-1 {hits.sum() / images.sum():.1%}; by class {accuracy.min():.1%} to "
        f"{accuracy.max():.1%}, mean {accuracy.mean():.1%}"
    )


def _short(name: Any) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"

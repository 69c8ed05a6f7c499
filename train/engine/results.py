"""Writes and reads the results of a finished run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import inception_jax as ij
from train.engine.evaluation import Evaluation, confusion
from train.engine.job import Job
from train.report import plots
from train.storage import atomic_write

Result = dict[str, Any]


def summary(job: Job, arch: str, step: int, loss: float | None, evaluation: Evaluation) -> Result:
    """Returns the result of a run: a dict that is printed as the last line of standard output.

    Args:
        job: the run.
        arch: name of the network.
        step: step of the evaluated state.
        loss: last training loss that was logged; None if there is none, or nothing was trained.
        evaluation: evaluation of the state.
    """
    return {
        "arch": arch,
        "dataset": job.dataset.name,
        "step": step,
        "epoch": round(step / job.per_epoch, 4),
        "train_loss": loss,
        **evaluation.metrics,
        **({"passed_over": job.dataset.passed_over} if job.dataset.passed_over else {}),
    }


def write(job: Job, workdir: Path, recipe: str, result: Result, evaluation: Evaluation) -> None:
    """Writes weights, plots, `classes.csv` and `result.json` into the workdir.

    Args:
        job: the run, in its last state.
        workdir: folder of the run.
        recipe: name of the recipe, which the weight file records.
        result: result from `summary`.
        evaluation: evaluation of the last state.
    """
    classes = job.dataset.classes
    counts = confusion(evaluation, len(classes))
    plots.draw_curves(workdir, result["arch"])
    plots.draw_confusion(workdir, counts, classes)
    _write_classes(workdir / "classes.csv", counts, classes)
    shown = plots.choose(np.flatnonzero(evaluation.counted))
    plots.draw_predictions(
        workdir,
        job.evaluate.pictures(shown),
        evaluation.labels[shown],
        evaluation.predictions[shown],
        classes,
    )
    for part in jax.device_get(job.state.averaged):
        nnx.update(job.model, part)
    job.model.training = {"dataset": job.dataset.name, "recipe": recipe, "result": result}
    with atomic_write(workdir / "weights.safetensors") as partial:
        ij.save_weights(job.model, partial)
    with atomic_write(workdir / "result.json") as partial:
        partial.write_text(json.dumps(result) + "\n")


def read(workdir: Path) -> tuple[Result | None, str | None]:
    """Reads the result of a finished run.

    Returns:
        A tuple (result, message). The result is None if there is none, or if its file is damaged.
        The message reports a damaged file, and is None otherwise.
    """
    path = workdir / "result.json"
    if not path.exists() or not (workdir / "weights.safetensors").exists():
        return None, None
    try:
        result = json.loads(path.read_text())
        return {**result, "step": int(result["step"])}, None
    except (OSError, ValueError, KeyError, TypeError):
        return None, f"note: {path} is damaged and counts as absent: evaluating again"


def _write_classes(path: Path, counts: np.ndarray, classes: tuple[str, ...]) -> None:
    """Writes a CSV file: image count, accuracy and most frequent wrong prediction of each class.

    `counts` is the confusion matrix, from `confusion`; `classes` has the names of the classes.
    """
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "images", "top1", "most often taken for", "times"])
        for i, name in enumerate(classes):
            wrong = counts[i].copy()
            wrong[i] = 0
            images, worst = counts[i].sum(), int(wrong.argmax())
            accuracy = f"{counts[i, i] / images:.4f}" if images else ""
            other = (classes[worst], wrong[worst]) if wrong[worst] else ("", 0)
            writer.writerow([name, images, accuracy, *other])

"""What a run says at its start, and leaves at its end."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import inception_jax as ij
from train.config.workdir import as_json
from train.engine import optimizer
from train.engine.evaluation import Evaluation, confusion
from train.engine.job import Job
from train.hosts import processes
from train.report import plots

Result = dict[str, Any]


def headline(job: Job, start: int) -> str:
    """Describes a run: the resolved configuration, then a sentence."""
    config = job.config
    options = json.dumps(as_json(config))
    trained = "parameters of the classifier" if config.freeze_backbone else "parameters"
    scaled = ""
    if config.lr_base_batch:
        scaled = f" = {config.learning_rate:g} x {config.batch_size} / {config.lr_base_batch}"
    return (
        f"configuration: {options}\n"
        f"{config.arch} x{config.width_multiplier:g}, {job.num_params:,} {trained}, recipe "
        f"{config.recipe}, on {config.dataset} at {config.image_size} px "
        f"({len(job.dataset.train):,} training images, {len(job.dataset.test):,} test images), "
        f"highest rate {optimizer.peak_rate(config):.4g}{scaled}, "
        f"{jax.device_count()} {jax.devices()[0].platform} device(s) of {jax.process_count()} "
        "process(es): "
        + (f"resuming at step {start}" if start else "starting")
        + f", {job.total} steps, writing to {config.workdir}; the first step is compiled first"
    )


def result(job: Job, step: int, loss: float | None, evaluation: Evaluation) -> Result:
    """Returns what the last line of standard output says."""
    return {
        "arch": job.config.arch,
        "dataset": job.config.dataset,
        "step": step,
        "epoch": round(step / job.per_epoch, 4),
        "train_loss": loss,
        **evaluation.metrics,
    }


def finish(job: Job, loss: float | None, evaluation: Evaluation) -> Result:
    """Leaves weights, pictures and the result in the workdir."""
    summary = result(job, job.total, loss, evaluation)
    if not processes.is_main():
        return summary
    folder, classes = job.config.workdir, job.dataset.classes
    counts = confusion(evaluation, len(classes))
    plots.draw_curves(folder, job.config.arch)
    plots.draw_confusion(folder, counts, classes)
    _write_classes(folder / "classes.csv", counts, classes)
    shown = plots.choose(np.flatnonzero(evaluation.counted))
    plots.draw_predictions(
        folder,
        job.evaluate.pictures(shown),
        evaluation.labels[shown],
        evaluation.predictions[shown],
        classes,
    )
    for part in jax.device_get(job.state.averaged):
        nnx.update(job.model, part)
    ij.save_weights(job.model, folder / "weights.safetensors")
    (folder / "result.json").write_text(json.dumps(summary) + "\n")
    return summary


def _write_classes(path: Path, counts: np.ndarray, classes: tuple[str, ...]) -> None:
    """Writes each class's test images, accuracy, and the class it is most often taken for."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "images", "top1", "most often taken for", "times"])
        for i, name in enumerate(classes):
            wrong = counts[i].copy()
            wrong[i] = 0
            images, worst = counts[i].sum(), int(wrong.argmax())
            accuracy = f"{counts[i, i] / images:.4f}" if images else ""
            other = (classes[worst], wrong[worst]) if wrong[worst] else ("", 0)
            writer.writerow([name, images, accuracy, *other])

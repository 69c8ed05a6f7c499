"""Describes the options and the machine of a run for its report."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable
from typing import Any

import flax
import jax

from inception_jax.version import __version__
from train.config import fields, recipes
from train.engine.evaluation import Evaluation, confusion
from train.engine.job import Job
from train.report.html_report import Report
from train.report.reporter import read_metrics
from train.run.command_line import Config

# Options that are always shown.
_ALWAYS = ("image_size", "width_multiplier", "batch_size", "epochs", "optimizer", "learning_rate")
# Options that are not part of a recipe, but of a run or a machine.
_OWN = ("workdir", "data_dir", "recipe", "scaled", "arch", "dataset", "eval_only", "dry_run")


def differences(config: Config, channels: int) -> dict[str, tuple[Any, Any]]:
    """Returns tuples (recipe's value, run's value) of options, by name.

    These are the main options, and all options whose two values differ. The workdir and similar
    options that belong to a run or a machine are left out.

    Args:
        config: configuration of the run.
        channels: number of channels of the images. If it is 3, the images count as photographs, for
            which a recipe can have other values.
    """
    recipe, arch = config.run.recipe, config.network.arch.partition(".")[0]
    usual = recipes.options(recipe, arch, photographs=channels == 3)
    before, now = fields.flat(fields.override(Config(), usual)), fields.flat(config)
    names = [name for name in now if name not in _OWN and before[name] != now[name]]
    return {name: (before[name], now[name]) for name in (*_ALWAYS, *names)}


def run_report(config: Config, job: Job) -> Callable[[int, Evaluation], None]:
    """Returns a function that writes `report.html`, given a step and its evaluation."""
    dataset, folder, data_dir = job.dataset, config.run.workdir, config.data.data_dir
    name = dataset.name
    if name == "folder" and data_dir is not None:
        name = data_dir.resolve().name
    report = Report(
        title=f"{config.network.arch} on {name}",
        workdir=folder,
        total=job.total,
        classes=dataset.classes,
        configuration=differences(config, dataset.channels),
        facts={
            "Training images": f"{len(dataset.train):,}",
            "Trained parameters": f"{job.num_params:,}",
            "Image size": f"{config.input.image_size} px",
            "Recipe": config.run.recipe,
        },
        environment=_environment(),
        pictures=job.evaluate.pictures,
    )

    def write(step: int, evaluation: Evaluation) -> None:
        counts = confusion(evaluation, len(dataset.classes))
        report.write(step, read_metrics(folder), evaluation, counts)

    return write


def _environment() -> dict[str, str]:
    kind, count = jax.devices()[0].device_kind, jax.device_count()
    return {
        "inception_jax": __version__,
        "jax, flax": f"{jax.__version__}, {flax.__version__}",
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "Devices": f"{count} x {kind}, {jax.process_count()} process(es)",
        "Started": datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
    }

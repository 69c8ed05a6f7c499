"""Evaluates a weight file without a run: `--eval-only --init-from FILE`.

The file determines the network, its classes and the preprocessing. No files are written.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from inception_jax.classes import names_of
from inception_jax.create import model_for
from inception_jax.crops import described
from inception_jax.nn.model import Model
from inception_jax.notes import printable
from inception_jax.registry import ModelInfo
from inception_jax.weights.weight_file import spec_of
from train.data.bad_images import BadImages
from train.data.datasets import Dataset
from train.data.relabelled import relabelled
from train.engine import functional, step
from train.engine.augmentation import Augmentation
from train.engine.evaluation import Evaluator, Interrupted
from train.engine.loop import Preempted
from train.errors import UsageError
from train.hosts import processes
from train.hosts.devices import Devices
from train.hosts.preemption import Preemption
from train.run.assembly import warn
from train.run.command_line import Config
from train.workdir import claim


def is_asked(config: Config) -> bool:
    """Returns whether the options ask to evaluate a weight file, and not a run's checkpoint."""
    return (
        config.run.eval_only
        and config.network.init_from is not None
        and not claim.holds_run_from(config.run.workdir, config.network.init_from)
    )


def run(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Evaluates the weights of `init_from`.

    Returns:
        The result to print as the last line of standard output. It has the entries of a run at step
        0, and in addition `weights`, the path of the file, and `protocol`, the preprocessing.

    Raises:
        UsageError: if the data set's classes are not among the network's, or the numbers of
            channels differ and the images cannot be converted.
        WeightsError: if the weights do not fit the network.
        Preempted: after SIGTERM.
    """
    stop = Preemption()
    model = _network(config)
    dataset = _fitting(dataset, model)
    own_classes = len(dataset.classes)
    dataset, matched = relabelled(dataset, names_of(model), spec_of(model).num_classes)
    info = _protocol(config, model)
    bad_images = BadImages(config.input.max_bad_images, warn)
    evaluate, state = _evaluator(config, dataset, model, info, bad_images)
    if processes.is_main():
        for line in _headline(config, dataset, info, own_classes, matched):
            print(line, flush=True)
    try:
        evaluation = evaluate(state, stop)
    except Interrupted:
        raise Preempted("SIGTERM while evaluating: the same command starts again") from None
    bad_images.summarise()
    return {
        "arch": config.network.arch,
        "dataset": dataset.name,
        "step": 0,
        "epoch": 0.0,
        "train_loss": None,
        **evaluation.metrics,
        **({"passed_over": dataset.passed_over} if dataset.passed_over else {}),
        "weights": str(config.network.init_from),
        "protocol": info.preprocessing,
    }


def _network(config: Config) -> Model:
    network = config.network
    assert network.init_from is not None
    return model_for(
        network.arch,
        network.init_from,
        width_multiplier=network.width_multiplier,
        dtype=jnp.dtype(network.dtype),
        param_dtype=jnp.promote_types(network.dtype, jnp.float32),
    )


def _fitting(dataset: Dataset, model: Model) -> Dataset:
    """Returns the data set with the number of channels that the network takes.

    Raises:
        UsageError: if the images cannot be converted.
    """
    needed = model.in_channels
    if dataset.channels == needed:
        return dataset
    if dataset.in_memory or needed not in (1, 3):
        raise UsageError(
            f"the network takes {needed} channel(s), {dataset.name} has {dataset.channels}"
        )
    return dataclasses.replace(dataset, channels=needed)


def _protocol(config: Config, model: Model) -> ModelInfo:
    """Returns the file's preprocessing, changed by the options `image_size` and `upright`."""
    assert model.info is not None
    upright = config.input.upright
    return dataclasses.replace(
        model.info,
        input_size=config.input.image_size,
        upright=model.info.upright if upright is None else upright,
    )


def _evaluator(
    config: Config, dataset: Dataset, model: Model, info: ModelInfo, bad_images: BadImages
) -> tuple[Evaluator, step.TrainState]:
    devices = Devices(config.batch)
    _, eval_def, params, stats = functional.split(model)
    state = step.init_state(params, stats, optax.identity(), averages=False)
    state = jax.tree.map(devices.copy, jax.device_get(state))
    augmentation = Augmentation(
        config.augmentation, config.network.arch, info.input_size, config.network.dtype, info
    )
    predict = functional.make_predict(eval_def, config.network)
    evaluate = Evaluator(
        dataset,
        dataclasses.replace(config.input, upright=info.upright),
        info,
        devices,
        step.make_eval_step(predict, augmentation),
        config.batch.batch_size,
        bad_images,
    )
    return evaluate, state


def _headline(
    config: Config, dataset: Dataset, info: ModelInfo, own_classes: int, matched: str
) -> list[str]:
    count = dataset.passed_over
    skipped = f", {count:,} file{'s' * (count > 1)} skipped" if count else ""
    lines = [
        f"evaluating {printable(config.network.init_from)} as {config.network.arch} on "
        f"{len(dataset.test):,} test images{skipped} of {own_classes} class(es); accuracy is among "
        f"all {len(dataset.classes)} classes of the weights; {matched}",
        f"images: {described(info)}",
    ]
    return lines + ([f"note: {line}" for line in dataset.note.splitlines()] if dataset.note else [])

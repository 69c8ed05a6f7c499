"""Puts a run together: every part gets the options of its own room."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

import inception_jax as ij
from inception_jax.nn.model import Model
from inception_jax.registry import ModelInfo
from train.data import pipeline
from train.data.bad_images import BadImages
from train.data.datasets import Dataset
from train.engine import functional, schedule, step
from train.engine.augmentation import Augmentation
from train.engine.evaluation import Evaluator
from train.engine.initial_weights import load_start
from train.engine.job import Job
from train.engine.optimizer import make_optimizer
from train.hosts.devices import Devices
from train.run.command_line import Config


def assemble(
    config: Config,
    dataset: Dataset,
    *,
    model: Model | None = None,
    elsewhere: Sequence[Any] | None = None,
) -> Job:
    """Builds everything that a run needs, and compiles nothing.

    Args:
        config: of the run.
        dataset: of the run.
        model: the network, where it is not the configuration's.
        elsewhere: devices to compile for, which need not exist; the state then has shapes alone.

    Raises:
        UsageError: if the configuration cannot be run.
        WeightsError: if the weights to start from do not fit.
    """
    network, batch_size, classes = config.network, config.batch.batch_size, len(dataset.classes)
    devices = Devices(config.batch, elsewhere)
    per_epoch, total = schedule.length(config.schedule, batch_size, len(dataset.train))
    if model is None:
        model = _network(config, dataset, abstract=elsewhere is not None)
    model.info = protocol(config, dataset)
    model.classes = dataset.classes
    train_def, eval_def, params, stats = functional.split(
        model,
        freeze_backbone=network.freeze_backbone,
        wide_gradients=network.grad_reduce == "float32",
    )
    rate = schedule.learning_rate(config.schedule, batch_size, per_epoch, total)
    tx = make_optimizer(config.optimizer, rate)
    size = config.input.image_size
    augmentation = Augmentation(config.augmentation, network.arch, size, network.dtype)
    forward = functional.make_forward(train_def, network)
    loss = step.make_loss(forward, augmentation, config.step, classes)
    gradients = step.make_gradients(loss, config.batch, config.run.seed, devices.spread)
    init = functools.partial(step.init_state, tx=tx, averages=config.step.ema_decay > 0)
    if elsewhere is not None:
        state = jax.eval_shape(init, params, stats)
    else:  # every process has built the same
        state = jax.tree.map(devices.copy, jax.device_get(init(params, stats)))
    options = dataclasses.replace(config.input, upright=model.info.upright)
    bad_images = BadImages(config.input.max_bad_images, warn)
    return Job(
        dataset=dataset,
        devices=devices,
        per_epoch=per_epoch,
        total=total,
        model=model,
        state=state,
        rate=rate,
        step=step.make_train_step(gradients, tx, config.step),
        parts=config.batch.grad_accum,
        batches=lambda start, stop: pipeline.train_batches(
            dataset,
            options,
            start,
            stop,
            batch_size,
            config.run.seed,
            jax.process_index(),
            jax.process_count(),
        ),
        evaluate=Evaluator(
            dataset,
            options,
            model.info,
            devices,
            step.make_eval_step(functional.make_predict(eval_def, network), augmentation),
            batch_size // config.batch.grad_accum,
            bad_images,
        ),
        bad_images=bad_images,
    )


def _network(config: Config, dataset: Dataset, *, abstract: bool) -> Model:
    """Builds the network with its starting weights, or, if abstract, its shapes alone."""
    build = functools.partial(
        functional.build,
        config.network,
        len(dataset.classes),
        dataset.channels,
        aux_heads=config.step.aux_weight > 0,
        seed=config.run.seed,
    )
    if abstract:
        return nnx.eval_shape(build)
    model = build()
    if config.network.init_from is not None:
        load_start(model, config.network.init_from)
    return model


def protocol(config: Config, dataset: Dataset) -> ModelInfo:
    """Returns how a run's images are prepared for evaluation, which its weight file records.

    A tag keeps its publisher's crop and interpolation. Without a tag the central part of an encoded
    image is resized with antialiasing, which is what training's crops, decoded at a reduced size,
    come closest to; arrays are resized as they are, on the device. Folders of photos are turned
    upright, also where the weights to start from saw photos as they are stored.
    """
    options = config.input
    info = ij.model_info(config.network.arch)
    upright = options.upright
    if upright is None:
        upright = config.data.dataset == "folder"
    changes: dict[str, Any] = dict(
        input_size=options.image_size, num_classes=len(dataset.classes), upright=upright
    )
    if dataset.in_memory:
        changes |= dict(crop="squash", interpolation="bilinear_torch")
    elif not info.tag:
        crop_pct = options.eval_crop_fraction
        changes |= dict(crop="crop_resize", crop_pct=crop_pct, interpolation="bilinear")
    return dataclasses.replace(info.for_channels(dataset.channels), **changes)


def warn(line: str) -> None:
    """Prints a line on standard error."""
    print(line, file=sys.stderr, flush=True)

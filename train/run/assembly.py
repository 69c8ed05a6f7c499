"""Assembles a run: every part gets only its own options."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import optax
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
from train.engine.phases import Phase, classifiers, make_head_step, restarted, with_frozen
from train.hosts.devices import Devices
from train.run.command_line import Config


def assemble(
    config: Config,
    dataset: Dataset,
    *,
    model: Model | None = None,
    elsewhere: Sequence[Any] | None = None,
) -> Job:
    """Builds the `Job` of a run: data, devices, network, state and steps. Compiles nothing.

    Args:
        config: configuration of the run.
        dataset: data set of the run.
        model: network to train; None to build it from the configuration.
        elsewhere: devices to compile for, which need not exist. The state then has only shapes.

    Raises:
        UsageError: if the configuration is invalid.
        WeightsError: if the initial weights do not fit the network.
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
    size = config.input.image_size
    augmentation = Augmentation(config.augmentation, network.arch, size, network.dtype)
    tx, phases = _phases(
        config, model, devices, (per_epoch, total), (train_def, params), augmentation, classes
    )
    init = functools.partial(step.init_state, tx=tx, averages=config.step.ema_decay > 0)
    if elsewhere is not None:
        state = jax.eval_shape(init, params, stats)
    else:  # every process has built the same network
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
        phases=phases,
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


def _phases(
    config: Config,
    model: Model,
    devices: Devices,
    length: tuple[int, int],
    trained: tuple[nnx.GraphDef, step.Tree],
    augmentation: Augmentation,
    classes: int,
) -> tuple[optax.GradientTransformation, tuple[Phase, ...]]:
    """Returns the optimiser, and the phases of the run.

    There are two phases if the classifier is trained alone first and all parameters after it; else
    there is one.

    Args:
        config: configuration of the run.
        model: the network.
        devices: devices over which a batch is sharded.
        length: number of steps in an epoch, and in the run.
        trained: graph for training, and trained parameters, from `functional.split`.
        augmentation: augmentation of the training images.
        classes: number of classes.
    """
    network, (per_epoch, total), (train_def, params) = config.network, length, trained
    head_steps = schedule.head_steps(config.schedule, per_epoch, total)
    rest = max(total - head_steps, 1)
    rate = schedule.learning_rate(config.schedule, config.batch.batch_size, per_epoch, rest)
    tx = make_optimizer(config.optimizer, rate)

    def loss(train_def: nnx.GraphDef, *, frozen: bool = False) -> step.Loss:
        forward = functional.make_forward(train_def, network, frozen=frozen)
        return step.make_loss(forward, augmentation, config.step, classes)

    def gradients(loss: step.Loss) -> step.Gradients:
        return step.make_gradients(loss, config.batch, config.run.seed, devices.spread)

    whole = Phase(0, rate, step.make_train_step(gradients(loss(train_def)), tx, config.step))
    if not head_steps:
        return tx, (whole,)
    own = classifiers(model, params)
    head_def = functional.head_view(model, wide_gradients=network.grad_reduce == "float32")
    of_head = gradients(with_frozen(loss(head_def, frozen=True), own))
    head_rate = schedule.head_rate(config.schedule, head_steps)
    head_tx = make_optimizer(config.optimizer, head_rate)  # its state has the structure of `tx`'s
    head_step = make_head_step(of_head, head_tx, config.step, own)
    head = Phase(0, head_rate, head_step, f"training the classifier alone until step {head_steps}")
    whole = dataclasses.replace(
        whole,
        start=head_steps,
        begin=restarted(tx, devices.replicated),
        note=f"training all parameters from step {head_steps} on",
    )
    return tx, (head, whole) if head_steps < total else (head,)


def _network(config: Config, dataset: Dataset, *, abstract: bool) -> Model:
    """Builds the network with its initial weights; if `abstract`, with shapes and no arrays."""
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
    """Returns the preprocessing of a run's evaluation, which the run's weight file records.

    If the network has a tag, such as `tv_in1k`, crop and interpolation are those of the tag.
    Otherwise, the central part of an encoded image is resized with antialiasing. This is closest to
    the crops in training, which are decoded at a reduced size. Images in memory are not cropped;
    the device resizes them. Unless the option `upright` says otherwise, photos in
    folders are rotated by their EXIF orientation, even if the initial weights were trained without
    this rotation.
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

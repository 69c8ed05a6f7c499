"""What a run is made of: network, optimiser, devices, images, first state."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

import jax

from inception_jax.nn.model import Model
from train.config.options import Config
from train.data.bad_images import BadImages
from train.data.datasets import Dataset
from train.data.pipeline import InputOptions
from train.engine import optimizer
from train.engine.evaluation import Evaluator
from train.engine.initial_weights import load_start
from train.engine.packing import SMALL, Packed, Packing
from train.engine.step import (
    Batch,
    Metrics,
    TrainState,
    build_model,
    init_state,
    make_train_step,
    split,
)
from train.errors import UsageError
from train.hosts.devices import Devices

# From so many training images on, each processor decodes in a process of its own.
_MANY_IMAGES = 50_000
_MOST_WORKERS = 32


@dataclasses.dataclass
class Job:
    """A run, ready to start.

    Attributes:
        config: of the run.
        dataset: what it trains and evaluates on.
        options: of the input pipeline.
        devices: shardings.
        per_epoch: steps in an epoch.
        total: last step.
        model: the network, with its initial parameters.
        packing: of the state.
        packed: the state, at first at step 0, on the devices.
        rate: learning rate as a function of the step.
        step: a training step, to be compiled.
        evaluate: evaluates a state.
        bad_images: counts images that cannot be read.
    """

    config: Config
    dataset: Dataset
    options: InputOptions
    devices: Devices
    per_epoch: int
    total: int
    model: Model
    packing: Packing
    packed: Packed
    rate: optimizer.Schedule
    step: Callable[..., Any]
    evaluate: Evaluator
    bad_images: BadImages

    @property
    def num_params(self) -> int:
        """Trained numbers."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.packing.like.params))

    @property
    def state(self) -> TrainState:
        """The state's arrays by themselves; the next step takes the memory of the large ones."""
        return self.packing.take(self.packed, self.devices.copy)

    @state.setter
    def state(self, state: TrainState) -> None:
        self.packed = self.packing.put(state, self.devices.copy)

    def lower(self, batch: Batch) -> Any:
        """Traces the step, from packed states to packed states, for batches of this kind."""
        return jit(self.step, self.packing, self.devices).lower(self.packed, batch)


def prepare(config: Config, dataset: Dataset) -> Job:
    """Builds everything that a run needs, and compiles nothing.

    Raises:
        UsageError: if the configuration cannot be run.
        WeightsError: if the weights to start from do not fit.
    """
    devices = Devices.of(config)
    per_epoch, total = length(config, dataset)
    model = build_model(config, len(dataset.classes), dataset.channels)
    if config.init_from is not None:
        load_start(model, config.init_from)
    train_def, eval_def, params, stats = split(
        model,
        freeze_backbone=config.freeze_backbone,
        wide_gradients=config.grad_reduce == "float32",
    )
    tx = optimizer.make_optimizer(config, per_epoch, total)
    options = _input_options(config, dataset)
    bad_images = BadImages(config.max_bad_images, _warn)
    state = init_state(params, stats, tx, averages=config.ema_decay > 0)
    packing = packing_for(state, devices)
    return Job(
        config=config,
        dataset=dataset,
        options=options,
        devices=devices,
        per_epoch=per_epoch,
        total=total,
        model=model,
        packing=packing,
        # All processes have built the same.
        packed=packing.put(jax.device_get(state), devices.copy),
        rate=optimizer.learning_rate(config, per_epoch, total),
        step=make_train_step(train_def, tx, config, len(dataset.classes), devices.spread),
        evaluate=Evaluator(config, dataset, options, devices, eval_def, bad_images),
        bad_images=bad_images,
    )


def length(config: Config, dataset: Dataset) -> tuple[int, int]:
    """Returns the steps in an epoch and in the whole run.

    Raises:
        UsageError: if the images do not fill a batch.
    """
    per_epoch = len(dataset.train) // config.batch_size
    if per_epoch == 0:
        raise UsageError(
            f"--batch-size {config.batch_size} is more than the {len(dataset.train)} images"
        )
    return per_epoch, config.steps or max(round(config.epochs * per_epoch), 1)


def packing_for(state: TrainState, devices: Devices) -> Packing:
    """Returns how a state, or its shapes, is handed to the step.

    On CPUs as it is: a step takes so long there that a call does not count, and one that packs
    takes twice as long to compile.
    """
    return Packing(state, largest=0 if devices.on_cpu else SMALL)


def jit(step: Callable[..., Any], packing: Packing, devices: Devices) -> Any:
    """Returns a training step that can be compiled, from packed states to packed states.

    It takes its state's memory for the next.
    """

    def packed_step(packed: Packed, batch: Batch) -> tuple[Packed, Metrics]:
        state, metrics = step(packing.unpack(packed), batch)
        return packing.pack(state), metrics

    return jax.jit(
        packed_step,
        donate_argnums=0,
        in_shardings=(devices.replicated, devices.sharded),
        out_shardings=(devices.replicated, devices.replicated),
    )


def keep_compiled(config: Config) -> None:
    """Turns jax's cache of compiled programs on, if the environment does not say where it is."""
    if config.compile_cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(config.workdir.absolute() / "xla_cache"))


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _input_options(config: Config, dataset: Dataset) -> InputOptions:
    workers = config.workers
    if workers is None:
        many = len(dataset.train) >= _MANY_IMAGES
        workers = min(os.cpu_count() or 1, _MOST_WORKERS) if many else 0
    return InputOptions(
        image_size=config.image_size,
        channels=dataset.channels,
        num_classes=len(dataset.classes),
        crop=config.crop,
        crop_area_min=config.crop_area_min,
        flip=config.flip,
        randaugment=config.randaugment,
        randaugment_std=0.5,
        eval_crop_fraction=config.eval_crop_fraction,
        eval_crops=config.eval_crops,
        workers=workers,
        max_bad_images=config.max_bad_images,
    )

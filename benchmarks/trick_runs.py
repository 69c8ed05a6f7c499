"""Trains networks for benchmarks/tricks.py with the code of `train/`, and stores the results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import trick_networks
from benchmarks.trick_statistics import (
    Run,
    calibration,
    calibration_error,
    cross_entropy,
    logit_gap,
)
from inception_jax.nn.model import Model
from inception_jax.outputs import atomic_write
from train.config.fields import override
from train.data import pipeline
from train.data.datasets import Dataset, SubsetSource
from train.engine import functional, schedule, step
from train.engine.augmentation import Augmentation
from train.engine.optimizer import make_optimizer
from train.run.assembly import protocol
from train.run.command_line import Config

EVALUATIONS = 8  # number of evaluations in a run, at equal intervals
_AT_ONCE = 250  # largest number of test images in a batch
# Training options on which the loss and its gradient depend.
_OF_THE_LOSS = ("image_size", "batch_size", "label_smoothing", "aux_weight")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train one network.

    Attributes:
        name: name in tables and figures.
        network: name for `create_model`, or name in `trick_networks.SMALL`.
        options: options of the network.
        training: options of `train/main.py` by name; they override `BASE`.
        steps: number of steps in a run.
        change: change of the built network, a name in `trick_networks.CHANGES`; "": no change.
        images: number of training images; None: all.
        torch_rule: whether to use PyTorch's formula of RMSProp, see `torch_rmsprop`.
    """

    name: str
    network: str
    options: Mapping[str, Any]
    training: Mapping[str, Any]
    steps: int
    change: str = ""
    images: int | None = None
    torch_rule: bool = False


# Training options of all arms, without any trick.
BASE: dict[str, Any] = dict(
    batch_size=32,
    lr_schedule="cosine",
    weight_decay=4e-5,
    label_smoothing=0.0,
    ema_decay=0.0,
    clip_norm=0.0,
    bn_momentum=0.9,
)


def configuration(arm: Arm, steps: int) -> Config:
    """Returns an arm's configuration for the training programme.

    An arm is one way to train one network.
    """
    changes = {**BASE, **arm.training, "steps": steps}
    if arm.network not in trick_networks.SMALL:
        changes["arch"] = arm.network
    return override(Config(), changes)


def torch_rmsprop(options: Any, rate: schedule.Schedule) -> optax.GradientTransformation:
    """Returns an optax transformation that computes RMSProp with `torch.optim.RMSprop`'s formula.

    Unlike in TensorFlow's formula, epsilon is outside the root, the mean square starts at zero, and
    the learning rate is applied after the momentum.

    Args:
        options: options of the optimiser; `rms_decay`, `rms_eps` and `momentum` are used.
        rate: learning rate by step.
    """
    return optax.chain(
        optax.scale_by_rms(
            options.rms_decay, options.rms_eps, initial_scale=0.0, eps_in_sqrt=False
        ),
        optax.trace(options.momentum),
        optax.scale_by_learning_rate(rate),
    )


class Program:
    """The compiled functions that compute a network's gradients and predictions.

    An arm is one way to train one network. Arms with the same network and loss share one program.

    Args:
        arm: one of the arms that share the program.
        dataset: data set with the classes and channels of the network.

    Attributes:
        gradients: function of a training state, a batch and a seed; returns gradients, new
            statistics and metrics.
        logits: function of parameters, statistics and images; returns the logits.
    """

    def __init__(self, arm: Arm, dataset: Dataset):
        config = configuration(arm, arm.steps)
        self._arm = arm
        self._sizes = len(dataset.classes), dataset.channels
        train_def, eval_def, *_ = functional.split(self.model(0))
        size, network = config.input.image_size, config.network
        augmentation = Augmentation(config.augmentation, network.arch, size, network.dtype)
        forward = functional.make_forward(train_def, network)
        loss = step.make_loss(forward, augmentation, config.step, len(dataset.classes))
        predict = functional.make_predict(eval_def, network)

        # The seed is an argument, so that one program serves all seeds.
        def gradients(state: step.TrainState, batch: step.Batch, seed: Any) -> Any:
            return step.make_gradients(loss, config.batch, seed)(state, batch)

        def logits(params: step.Tree, stats: step.Tree, images: jax.Array) -> jax.Array:
            return predict(params, stats, augmentation.prepare(images))

        self.gradients = jax.jit(gradients)
        self.logits = jax.jit(logits)

    def model(self, seed: int) -> Model:
        """Builds the network with the initial parameters of a seed."""
        arm = self._arm
        return trick_networks.build(arm.network, dict(arm.options), arm.change, *self._sizes, seed)


class Trainer:
    """Trains an arm: one network in one way.

    Args:
        arm: arm to train.
        dataset: data set to train and evaluate on.
        steps: number of steps in a run.
        programs: programs of earlier arms, by key; the program of this arm is added if missing.
    """

    def __init__(self, arm: Arm, dataset: Dataset, steps: int, programs: dict[str, Program]):
        self.steps = steps
        self.dataset = _subset(dataset, arm.images)
        self.config = config = configuration(arm, steps)
        key = _program_key(arm)
        if key not in programs:
            programs[key] = Program(arm, dataset)
        self.program = programs[key]
        size = config.batch.batch_size
        per_epoch, _ = schedule.length(config.schedule, size, len(self.dataset.train))
        rate = schedule.learning_rate(config.schedule, size, per_epoch, steps)
        make = torch_rmsprop if arm.torch_rule else make_optimizer
        self._tx = tx = make(config.optimizer, rate)

        def update(
            state: step.TrainState, found: tuple[step.Tree, step.Tree, step.Metrics]
        ) -> tuple[step.TrainState, step.Metrics]:
            grads, stats, metrics = found
            return step.update(state, grads, stats, metrics, tx, config.step)

        self._update = jax.jit(update, donate_argnums=0)
        self._tests = list(self._test_batches())

    def run(self, seed: int) -> Run:
        """Trains with one seed until all steps are done or the loss is not finite.

        Returns:
            The results of the run.
        """
        started = time.process_time()
        _, _, params, stats = functional.split(self.program.model(seed))
        averages = self.config.step.ema_decay > 0
        state = step.init_state(params, stats, self._tx, averages=averages)
        at = {round(self.steps * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}
        losses, curve, raw_curve = [], [], []
        with self._train_batches(seed) as batches:
            for i, batch in enumerate(batches, 1):
                arrays = {name: batch[name] for name in ("image", "label")}
                if not losses or math.isfinite(losses[-1]):
                    found = self.program.gradients(state, arrays, seed)
                    state, metrics = self._update(state, found)
                    losses.append(float(metrics["loss"]))
                if i in at:
                    curve.append((i, self._top1(*state.averaged)))
                    if averages:
                        raw_curve.append((i, self._top1(state.params, state.stats)))
        logits, labels = self._predictions(*state.averaged)
        bins = calibration(logits, labels)
        return Run(
            losses,
            curve,
            raw_curve,
            cross_entropy(logits, labels),
            calibration_error(bins),
            logit_gap(logits),
            bins,
            time.process_time() - started,
        )

    def _train_batches(self, seed: int) -> Any:
        config = self.config
        size = config.batch.batch_size
        return pipeline.train_batches(self.dataset, config.input, 0, self.steps, size, seed)

    def _test_batches(self) -> Iterator[Mapping[str, np.ndarray]]:
        info = protocol(self.config, self.dataset)
        share = math.gcd(_AT_ONCE, len(self.dataset.test))
        options = self.config.input
        with pipeline.evaluation_batches(self.dataset, options, info, share) as batches:
            yield from batches

    def _predictions(self, params: step.Tree, stats: step.Tree) -> tuple[np.ndarray, np.ndarray]:
        """Returns the logits and the labels of all test images."""
        logits = [self.program.logits(params, stats, batch["image"]) for batch in self._tests]
        labels = [batch["label"] for batch in self._tests]
        mask = np.concatenate([batch["mask"] for batch in self._tests]) > 0
        return np.concatenate(jax.device_get(logits))[mask], np.concatenate(labels)[mask]

    def _top1(self, params: step.Tree, stats: step.Tree) -> float:
        logits, labels = self._predictions(params, stats)
        return float((logits.argmax(1) == labels).mean())


def _program_key(arm: Arm) -> str:
    """Returns a key of an arm's network and loss; arms with the same key share a program."""
    training = {**BASE, **arm.training}
    loss = [training.get(name) for name in _OF_THE_LOSS]
    return json.dumps([arm.network, dict(arm.options), arm.change, loss], sort_keys=True)


def _subset(dataset: Dataset, images: int | None) -> Dataset:
    """Returns a data set with a random subset of its training images.

    The subset is the same for every seed.

    Args:
        dataset: data set with all images.
        images: number of training images; None: all.
    """
    if images is None or images >= len(dataset.train):
        return dataset
    chosen = np.random.default_rng(0).permutation(len(dataset.train))[:images]
    return dataclasses.replace(dataset, train=SubsetSource(dataset.train, chosen))


class Results:
    """The results of finished runs, stored in a file that is rewritten after each run.

    Args:
        path: path of the file, which is created after the first run.
    """

    def __init__(self, path: Path):
        self.path = path
        self._runs: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, arm: Arm, dataset: str, steps: int, seed: int) -> Run | None:
        """Returns the results of a finished run, or None if there is no such run.

        `dataset` is the name of the data set, and `steps` the number of steps.
        """
        saved = self._runs.get(key_of(arm, dataset, steps, seed))
        return None if saved is None else Run(**saved["run"])

    def add(self, arm: Arm, dataset: str, steps: int, seed: int, run: Run) -> None:
        """Adds the results of a run, and writes the file."""
        self._runs[key_of(arm, dataset, steps, seed)] = {
            "setting": setting_of(arm, dataset, steps, seed),
            "run": dataclasses.asdict(run),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as partial:
            partial.write_text(json.dumps(self._runs))


def setting_of(arm: Arm, dataset: str, steps: int, seed: int) -> dict[str, Any]:
    """Returns a dict of everything that a run depends on, without the arm's name.

    `dataset` is the name of the data set, and `steps` the number of steps.
    """
    setting = {**dataclasses.asdict(arm), "training": {**BASE, **arm.training}}
    del setting["name"]
    return {**setting, "dataset": dataset, "steps": steps, "seed": seed}


def key_of(arm: Arm, dataset: str, steps: int, seed: int) -> str:
    """Returns a short key for a setting; arms that differ only in their names have the same key.

    `dataset` is the name of the data set, and `steps` the number of steps.
    """
    text = json.dumps(setting_of(arm, dataset, steps, seed), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def all_of(
    results: Results, arm: Arm, dataset: str, steps: int, seeds: Sequence[int]
) -> list[Run] | None:
    """Returns the results of an arm's runs for all seeds, or None if a run is missing.

    `dataset` is the name of the data set, and `steps` the number of steps.
    """
    runs = [results.get(arm, dataset, steps, seed) for seed in seeds]
    return None if None in runs else [run for run in runs if run is not None]

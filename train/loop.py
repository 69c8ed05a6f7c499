"""The training loop."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import inception_jax as ij
from inception_jax.model import Model
from train import data, optimizer, plots
from train.checkpoint import Checkpoints
from train.config import Config, claim_workdir, has_checkpoints
from train.devices import Devices
from train.errors import TrainingError, UsageError
from train.reporting import Reporter, last_loss
from train.step import (
    TrainState,
    build_model,
    init_state,
    make_eval_step,
    make_train_step,
    split,
)

Result = dict[str, Any]
Evaluate = Callable[[TrainState], tuple[Result, np.ndarray]]


class Preempted(Exception):
    """SIGTERM came; the state is saved."""


def train_and_evaluate(config: Config) -> Result:
    """Trains to the end, from the newest checkpoint if there is one, and evaluates.

    Returns:
        What the last line of standard output says.

    Raises:
        UsageError: if the configuration cannot be run.
        TrainingError: if the loss is not finite.
        Preempted: after SIGTERM.
    """
    dataset = data.load_dataset(config.dataset)
    devices = Devices(config.batch_size)
    per_epoch = len(dataset.train_labels) // config.batch_size
    if per_epoch == 0:
        raise UsageError(
            f"--batch-size {config.batch_size} is more than the {len(dataset.train_labels)} images"
        )
    total = config.steps or max(round(config.epochs * per_epoch), 1)
    claim_workdir(config)
    if config.eval_only and config.init_from is None and not has_checkpoints(config.workdir):
        raise UsageError(f"--eval-only: {config.workdir} holds no checkpoint")

    model = build_model(config, len(dataset.classes), dataset.train_images.shape[3])
    if config.init_from is not None:
        _load_start(model, config.init_from)
    train_def, eval_def, params, stats = split(model, freeze_backbone=config.freeze_backbone)
    tx = optimizer.make_optimizer(config, per_epoch)
    state = jax.device_put(init_state(params, stats, tx), devices.replicated)
    evaluate = _evaluator(make_eval_step(eval_def, config), config, dataset, devices)

    with Checkpoints(config.workdir, devices.replicated) as checkpoints:
        state = checkpoints.restore(state) or state
        start = int(state.step)
        if config.eval_only:
            return _result(config, start, per_epoch, None, evaluate(state)[0])
        finished = _finished(config, start, total)
        if finished is not None:
            return finished
        step = make_train_step(train_def, tx, config, len(dataset.classes))
        compiled = jax.jit(step, donate_argnums=0, out_shardings=devices.replicated)
        reporter = Reporter(config.workdir, start, total, per_epoch, config.batch_size)
        reporter.say(_headline(config, params, start, total))
        try:
            run = _Run(config, dataset, devices, per_epoch, total, checkpoints, reporter)
            state, loss = run.train(state, compiled, evaluate)
        finally:
            reporter.close()
    return _finish(config, model, state, loss, per_epoch, dataset, evaluate)


@dataclasses.dataclass
class _Run:
    config: Config
    dataset: data.Dataset
    devices: Devices
    per_epoch: int
    total: int
    checkpoints: Checkpoints
    reporter: Reporter

    def train(
        self, state: TrainState, compiled: Callable, evaluate: Evaluate
    ) -> tuple[TrainState, float | None]:
        """Trains to the last step; returns the state and the last mean loss."""
        config, rate = self.config, optimizer.learning_rate(self.config, self.per_epoch)
        stop = _StopSignal()
        pending, loss = [], last_loss(config.workdir)
        for step in range(int(state.step), self.total):
            batch = data.train_batch(
                self.dataset,
                step,
                config.batch_size,
                config.seed,
                jax.process_index(),
                jax.process_count(),
            )
            state, metrics = compiled(state, self.devices.put(batch))
            pending.append(metrics)
            done = step + 1
            self.reporter.tick()
            stopping = stop.received
            if done % config.log_every == 0 or done == self.total:
                means = _means(pending, done)
                loss, pending = means["loss"], []
                self.reporter.train(done, {**means, "lr": rate(step)})
            if done % config.checkpoint_every == 0 or done == self.total or stopping:
                _means(pending, done)  # no checkpoint of a state that is not finite
                with self.reporter.away():
                    self.checkpoints.save(state)
            if stopping:
                raise Preempted(f"SIGTERM: saved at step {done}; the same command goes on from it")
            if done % self.per_epoch == 0 and done != self.total:
                with self.reporter.away():
                    self.reporter.evaluation(done, evaluate(state)[0])
                    plots.draw_curves(config.workdir, config.arch)
        return state, loss


class _StopSignal:
    """Remembers a SIGTERM, which a scheduler sends some seconds before it takes the machine."""

    def __init__(self) -> None:
        self.received = False
        signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, *_: object) -> None:
        self.received = True


def _means(pending: list[dict[str, jax.Array]], step: int) -> dict[str, float]:
    """Averages the metrics of the steps that end at `step`.

    Raises:
        TrainingError: if the loss or the gradient of one of them is not finite.
    """
    values = jax.device_get(pending)
    for offset, metrics in enumerate(values, start=step - len(values) + 1):
        if not math.isfinite(metrics["loss"]) or not math.isfinite(metrics["grad_norm"]):
            raise TrainingError(
                f"loss {float(metrics['loss'])} with a gradient of norm "
                f"{float(metrics['grad_norm'])} at step {offset}: not finite. Earlier checkpoints "
                "are kept; try a lower --learning-rate in a new --workdir"
            )
    names = values[0] if values else ()
    return {name: float(np.mean([m[name] for m in values])) for name in names}


def _evaluator(
    eval_step: Callable, config: Config, dataset: data.Dataset, devices: Devices
) -> Evaluate:
    compiled = jax.jit(eval_step, out_shardings=devices.replicated)

    def evaluate(state: TrainState) -> tuple[Result, np.ndarray]:
        weights = {
            "": (state.ema_params, state.ema_stats),
            "_raw": (state.params, state.stats),
        }
        result, predictions = {}, {}
        for suffix, (params, stats) in weights.items():
            share = (jax.process_index(), jax.process_count())
            outputs = [
                jax.device_get(compiled(params, stats, devices.put(batch)))
                for batch in data.evaluation_batches(dataset, config.batch_size, *share)
            ]
            sums = {n: sum(float(o[n]) for o in outputs) for n in ("top1", "top5", "loss")}
            count = round(sum(float(o["examples"]) for o in outputs))
            if count != len(dataset.test_labels):
                raise TrainingError(f"evaluated {count} of {len(dataset.test_labels)} images")
            result |= {f"eval_{n}{suffix}": total / count for n, total in sums.items()}
            result["eval_examples"] = count
            predictions[suffix] = np.concatenate([o["prediction"] for o in outputs])[:count]
        return result, predictions[""]

    return evaluate


def _load_start(model: Model, path: Path) -> None:
    try:
        ij.load_weights(model, path)
    except ij.WeightsError as error:
        heads = tuple(f"{name}." for name in model.classifiers)
        wrong = (*error.missing, *error.misshapen, *error.unexpected)
        if not wrong or not all(name.startswith(heads) for name in wrong):
            raise
        ij.load_weights(model, path, head=False)
        print(f"{path} has no classifier of this size: it starts anew")


def _finished(config: Config, start: int, total: int) -> Result | None:
    """The result of a run that has nothing left to do."""
    path = config.workdir / "result.json"
    if start < total or not path.exists():
        return None
    print(f"{config.workdir} is finished: step {start} of {total}. Nothing to do.")
    return json.loads(path.read_text())


def _headline(config: Config, params: dict[str, Any], start: int, total: int) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    trained = "parameters of the classifier" if config.freeze_backbone else "parameters"
    return (
        f"{config.arch} x{config.width_multiplier:g}, {count:,} {trained}, on {config.dataset} at "
        f"{config.image_size} px, {jax.device_count()} {jax.devices()[0].platform} device(s): "
        + (f"resuming at step {start}" if start else "starting")
        + f", {total} steps, writing to {config.workdir}; the first step is compiled first"
    )


def _result(
    config: Config, step: int, per_epoch: int, loss: float | None, evaluation: Result
) -> Result:
    return {
        "arch": config.arch,
        "dataset": config.dataset,
        "step": step,
        "epoch": round(step / per_epoch, 4),
        "train_loss": loss,
        **evaluation,
    }


def _finish(
    config: Config,
    model: Model,
    state: TrainState,
    loss: float | None,
    per_epoch: int,
    dataset: data.Dataset,
    evaluate: Evaluate,
) -> Result:
    """Evaluates the last state and leaves weights, pictures and the result in the workdir."""
    step = int(state.step)
    evaluation, predictions = evaluate(state)
    Reporter(config.workdir, step, step, per_epoch, config.batch_size).evaluation(step, evaluation)
    plots.draw_curves(config.workdir, config.arch)
    plots.draw_predictions(
        config.workdir, dataset.test_images, dataset.test_labels, predictions, dataset.classes
    )
    nnx.update(model, state.ema_params)
    nnx.update(model, state.ema_stats)
    ij.save_weights(model, config.workdir / "weights.safetensors")
    result = _result(config, step, per_epoch, loss, evaluation)
    (config.workdir / "result.json").write_text(json.dumps(result) + "\n")
    return result

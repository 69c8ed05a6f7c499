"""Measures the effect of scaling the residuals of an Inception-ResNet.

The authors saw their wide networks "die" early in training: the last layer before the average
pooling produced only zeros, even at lower learning rates. Multiplying the residuals by 0.1 to 0.3
before adding them prevented this (arXiv:1602.07261, section 3.3).

This benchmark trains the paper's Inception-ResNet-v2 on the embedded Fashion-MNIST images with the
paper's RMSProp. The network is narrow, but has three times as many blocks as in the paper's
figures. There is one run for each scale, and one without scaling at a tenth of the learning rate.
Everything else is the same in all runs, including initial parameters and the order of the images.

    python benchmarks/residual_scale.py

prints a table, writes it into docs/residual_scale.md, and plots docs/residual_scale.png.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import tyro
from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import inception_jax as ij
from benchmarks import page
from train.config.fields import override
from train.data.datasets import Dataset
from train.data.open_dataset import open_dataset
from train.engine.augmentation import Augmentation
from train.engine.functional import split
from train.engine.step import Batch, TrainState
from train.hosts.preemption import Preemption
from train.run.assembly import assemble
from train.run.command_line import Config

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Train one network for each residual scale."""

    scales: tuple[float, ...] = (1.0, 0.3, 0.2, 0.1)
    """Factors on the residuals."""
    blocks: tuple[int, int, int] = (15, 30, 15)
    """Numbers of the blocks block35, block17 and block8; the paper's figures have 5, 10, 5."""
    width_multiplier: float = 0.125
    """Factor on every channel count."""
    steps: int = 300
    """Number of training steps."""
    learning_rate: float = 0.045
    """Initial learning rate; the default is the paper's."""
    seed: int = 0
    """Seed of the initial parameters and the order of the images."""


@dataclasses.dataclass
class Run:
    """Results of one training run.

    Attributes:
        scale: factor on the residuals.
        learning_rate: initial learning rate.
        losses: loss of every step.
        zeros: pairs of a step and the share of zeros in the output of the last layer before the
            average pooling.
        sizes: pairs of a step and the mean absolute value of the same output.
        top1: share of test images that are classified correctly.
    """

    scale: float
    learning_rate: float
    losses: list[float] = dataclasses.field(default_factory=list)
    zeros: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    sizes: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    top1: float = 0.0


def main(options: Options) -> None:
    """Trains the networks, and writes docs/residual_scale.md and its chart."""
    dataset = open_dataset("fashion_mnist")
    rate = options.learning_rate
    trials = [*((scale, rate) for scale in options.scales), (1.0, rate / 10)]
    runs = [train(scale, rate, options, dataset) for scale, rate in trials]
    size = configuration(rate, options).batch.batch_size
    setting = f"""{options.width_multiplier:g} of the network's width,
    {" + ".join(map(str, options.blocks))} residual blocks; {size} images per step, {options.steps}
    steps; seed {options.seed}, jax {jax.__version__} on {jax.devices()[0].platform}."""
    page.publish(options.docs / "residual_scale.md", "scales", setting, table(runs))
    draw(runs, options.docs / "residual_scale.png")


def configuration(learning_rate: float, options: Options) -> Config:
    """Returns a training configuration with the paper's RMSProp, but without gradient clipping.

    Clipping would hide the effect of the scale.
    """
    changes = dict(
        arch="inception_resnet_v2.paper",
        image_size=75,
        width_multiplier=options.width_multiplier,
        learning_rate=learning_rate,
        steps=options.steps,
        clip_norm=0.0,
        dropout=0.0,
        bn_momentum=0.9,
        ema_decay=0.0,
        seed=options.seed,
    )
    return override(Config(), changes)


def train(scale: float, learning_rate: float, options: Options, dataset: Dataset) -> Run:
    """Trains with one scale until all steps are done or the loss is not finite.

    Args:
        scale: factor on the residuals.
        learning_rate: initial learning rate.
        options: options of the command.
        dataset: data set to train and evaluate on.

    Returns:
        The results of the run.
    """
    config = configuration(learning_rate, options)
    model = ij.create_model(
        config.network.arch,
        num_classes=len(dataset.classes),
        in_channels=1,
        width_multiplier=config.network.width_multiplier,
        blocks=options.blocks,
        scales=(scale,) * 3,
        dropout=config.network.dropout,
        bn_momentum=config.network.bn_momentum,
        rngs=nnx.Rngs(config.run.seed),
    )
    job = assemble(config, dataset, model=model)
    state, step = job.state, jax.jit(job.phases[-1].step, donate_argnums=0)
    last_layer = jax.jit(_last_layer(split(model)[0], config))
    run = Run(scale, learning_rate)
    with job.batches(0, options.steps) as batches:
        for i, batch in enumerate(batches):
            batch = {name: batch[name] for name in ("image", "label")}
            if i % 10 == 0:
                zeros, size = (float(x) for x in last_layer(state, batch))
                run.zeros.append((i, zeros))
                run.sizes.append((i, size))
                print(
                    f"scale {scale:g}, rate {learning_rate:g}: step {i}/{options.steps}, "
                    f"{zeros:.0%} zeros in the last layer",
                    file=sys.stderr,
                )
            state, metrics = step(state, batch)
            run.losses.append(float(metrics["loss"]))
            if not math.isfinite(run.losses[-1]):
                break
    run.top1 = job.evaluate(state, Preemption()).metrics["eval_top1"]
    return run


def _last_layer(graphdef: nnx.GraphDef, config: Config) -> Any:
    network = config.network
    augmentation = Augmentation(
        config.augmentation, network.arch, config.input.image_size, network.dtype
    )

    def measure(state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, state.params, state.stats)
        last = model.features(augmentation.prepare(batch["image"]))["block8"]
        return (last == 0).mean(), jnp.abs(last).mean()

    return measure


def table(runs: list[Run]) -> str:
    """Returns a Markdown table with a row for each run."""
    head = ["scale", "rate", "largest loss", "loss, last 10 steps",
            "zeros in the last layer, start", "end", "its mean, start", "end",
            "test top-1"]  # fmt: skip
    rows = []
    for run in runs:
        last = run.losses[-10:]
        rows.append(
            [f"{run.scale:g}", f"{run.learning_rate:g}", f"{max(run.losses):.3g}",
             f"{sum(last) / len(last):.3g}", f"{run.zeros[0][1]:.0%}", f"{run.zeros[-1][1]:.0%}",
             f"{run.sizes[0][1]:.3g}", f"{run.sizes[-1][1]:.3g}", f"{run.top1:.1%}"]
        )  # fmt: skip
    return page.table(head, rows)


def draw(runs: list[Run], path: Path) -> None:
    """Plots three quantities of all runs over the training steps, and writes the figure to `path`.

    They are the training loss, the share of zeros in the last layer's output, and the mean absolute
    value of this output.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for run in runs:
        label = f"scale {run.scale:g}, rate {run.learning_rate:g}"
        axes[0].plot(run.losses, label=label, lw=1)
        axes[1].plot(*zip(*run.zeros, strict=True), label=label)
        axes[2].plot(*zip(*run.sizes, strict=True), label=label)
    axes[0].set(title="training loss", yscale="log")
    axes[1].set(title="share of zeros in the last layer", ylim=(0, 1))
    axes[2].set(title="mean of the last layer", yscale="log")
    for ax in axes:
        ax.set_xlabel("step")
        ax.grid(alpha=0.3)
        ax.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

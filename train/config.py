"""The command line: one frozen dataclass, filled by a recipe and overridden by options."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

import inception_jax as ij
from inception_jax.weights import files
from train.errors import UsageError
from train.recipes import RECIPES

Dataset = Literal["fashion_mnist"]
Dtype = Literal["float32", "bfloat16"]

DEFAULT_ARCH = "xception"

# Options that may differ when the same command goes on with a workdir: they change how long or how
# loudly it runs, not what is computed at a step.
_FREE = {"workdir", "steps", "epochs", "log_every", "checkpoint_every", "eval_only"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a network of the Inception family; the same command again resumes."""

    arch: str
    """Network to train: see `inception_jax.list_models()`."""
    recipe: str = "demo"
    """Named set of defaults for the options below; each can be overridden."""
    dataset: Dataset = "fashion_mnist"
    """Images to train on. fashion_mnist: 6,000 training and 1,000 test images that come with the
    repository, 28x28 grey, ten classes."""
    workdir: Path = Path("runs")
    """Folder for checkpoints, logs and pictures; made if absent."""
    seed: int = 0
    """Seed of the initial parameters, the order of the images, augmentation and dropout."""
    image_size: int = 299
    """Side that images are resized to, in pixels."""
    width_multiplier: float = 1.0
    """Factor on every channel count of the network."""
    dtype: Dtype = "float32"
    """What the network computes in; parameters and statistics are float32."""
    batch_size: int = 32
    """Images in a step, over all devices."""
    epochs: float = 1.0
    """Passes over the training images."""
    steps: int | None = None
    """Training steps, instead of epochs."""
    learning_rate: float = 0.045
    """Rate at step 0."""
    lr_decay: float = 0.94
    """Factor on the rate over each lr-decay-epochs, applied a little at every step."""
    lr_decay_epochs: float = 2.0
    """See lr-decay, in epochs."""
    rms_decay: float = 0.9
    """RMSProp: share of the mean square that a step keeps."""
    rms_eps: float = 1.0
    """RMSProp: added to the mean square under the root."""
    momentum: float = 0.9
    """RMSProp: share of the last update that a step keeps."""
    weight_decay: float = 4e-5
    """L2 on convolution and classifier kernels, as a part of the gradient."""
    clip_norm: float = 2.0
    """Largest norm of the whole gradient; 0: no limit."""
    label_smoothing: float = 0.1
    """Share of the label spread evenly over all classes."""
    aux_weight: float = 0.4
    """Weight of each auxiliary classifier's loss, for networks that have one."""
    ema_decay: float = 0.9999
    """Share of the averaged parameters and statistics that a step keeps, after a warm-up of
    (1 + step) / (10 + step). The averages are what is evaluated and exported."""
    dropout: float = 0.2
    """Share of the features before the classifier that is dropped."""
    bn_momentum: float = 0.9
    """BatchNorm: share of the running statistics that a step keeps."""
    init_from: Path | None = None
    """Weight file to start from, of any layout that load_weights reads; a classifier of another
    size, or one that the file lacks, starts anew."""
    freeze_backbone: bool = False
    """Train the classifier alone: all other parameters and BatchNorm's statistics stay as they are
    in init-from."""
    eval_only: bool = False
    """Evaluate the newest checkpoint of the workdir, or the weights of init-from, and stop."""
    log_every: int = 10
    """Steps between lines of the log."""
    checkpoint_every: int = 50
    """Steps between checkpoints; there is also one at the end."""


def parse(argv: Sequence[str]) -> Config:
    """Reads the command line.

    Raises:
        UsageError: naming the option and what it may be.
        SystemExit: after `--help`, or for options that do not exist.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--arch", default=DEFAULT_ARCH)
    first.add_argument("--recipe", default="demo")
    try:
        known, _ = first.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    defaults = Config(
        arch=known.arch,
        recipe=known.recipe,
        workdir=Path("runs") / known.arch,
        **_recipe(known.recipe, known.arch),
    )
    config = tyro.cli(Config, args=list(argv), default=defaults, prog="train/main.py")
    _check(config)
    return config


def _recipe(recipe: str, arch: str) -> dict[str, Any]:
    if recipe not in RECIPES:
        raise UsageError(f"unknown recipe {recipe!r}; there is {', '.join(RECIPES)}")
    info = ij.model_info(arch)
    if info.arch not in RECIPES[recipe]:
        raise UsageError(
            f"the recipe {recipe!r} has no entry for {arch}; it has {', '.join(RECIPES[recipe])}"
        )
    return RECIPES[recipe][info.arch]


def _check(config: Config) -> None:
    smallest = ij.model_info(config.arch).min_size
    if config.image_size < smallest:
        raise UsageError(
            f"--image-size {config.image_size} is below the minimum of {config.arch}, {smallest}"
        )
    positive = ("batch_size", "epochs", "steps", "width_multiplier", "learning_rate", "log_every",
                "checkpoint_every", "lr_decay", "lr_decay_epochs")  # fmt: skip
    for name, value in dataclasses.asdict(config).items():
        option = f"--{name.replace('_', '-')} {value}"
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{option}: must be a finite number")
        if name in positive and value is not None and value <= 0:
            raise UsageError(f"{option}: must be above zero")
        if name in ("rms_decay", "momentum", "label_smoothing", "ema_decay", "dropout",
                    "bn_momentum") and not 0 <= (value or 0) < 1:  # fmt: skip
            raise UsageError(f"{option}: must be at least 0 and below 1")
    if config.init_from is not None and not files.exists(config.init_from):
        raise UsageError(f"--init-from {config.init_from}: no such file")
    if config.freeze_backbone and config.init_from is None:
        raise UsageError("--freeze-backbone needs --init-from: random features teach nothing")


def claim_workdir(config: Config) -> None:
    """Makes the workdir, or checks that it is one of the same configuration.

    Raises:
        UsageError: if it cannot be written to, or holds checkpoints of another configuration.
    """
    path = config.workdir / "config.json"
    own = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(config).items()
    }
    try:
        config.workdir.mkdir(parents=True, exist_ok=True)
        probe = config.workdir / ".writable"
        probe.write_text("")
        probe.unlink()
        if not path.exists() or not has_checkpoints(config.workdir):
            path.write_text(json.dumps(own, indent=2) + "\n")
            return
        stored = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--workdir {config.workdir}: cannot be written to ({error})") from None
    except ValueError:
        raise UsageError(f"{path} is damaged; give another --workdir or delete it") from None
    changed = [
        f"{name} {stored.get(name)!r}, now {value!r}"
        for name, value in own.items()
        if name not in _FREE and stored.get(name) != value
    ]
    if changed:
        raise UsageError(
            f"--workdir {config.workdir} holds a run of another configuration "
            f"({'; '.join(changed)}): give another --workdir"
        )


def has_checkpoints(workdir: Path) -> bool:
    """Says whether there is anything in a workdir that another run could spoil."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))

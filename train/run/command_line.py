"""The command line: the options of all rooms, filled by a recipe and overridden one by one."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import tyro

import inception_jax as ij
from train.config import fields, recipes
from train.config.fields import MAY_CHANGE, NOT_NEGATIVE
from train.data.datasets import Dataset, imagenet_placeholder
from train.data.open_dataset import open_dataset
from train.data.options import DataOptions, InputOptions
from train.engine import functional, loop
from train.engine.augmentation import AugmentationOptions
from train.engine.functional import NetworkOptions
from train.engine.loop import LoopOptions
from train.engine.optimizer import OptimizerOptions
from train.engine.schedule import ScheduleOptions
from train.engine.step import StepOptions
from train.errors import UsageError
from train.hosts.devices import BatchOptions
from train.hosts.processes import HostOptions
from train.report.reporter import ReportOptions

_RECIPE_HELP = (
    "Named set of defaults for the other options, see train/config/recipes.py: "
    f"{', '.join(recipes.names())}. Not given: the network's own where there are "
    f"{recipes.LARGE:,} training images or more, else demo."
)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What is run, and where."""

    recipe: Annotated[str, tyro.conf.arg(help=_RECIPE_HELP)] = "demo"
    workdir: Annotated[Path, MAY_CHANGE] = Path("runs")
    """Folder for checkpoints, logs and pictures, which all processes see; made if absent."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the initial parameters, the order of the images, augmentation and dropout."""
    eval_only: Annotated[bool, MAY_CHANGE] = False
    """Evaluate the newest checkpoint of the workdir, or the weights of init-from, and stop."""
    dry_run: Annotated[bool, MAY_CHANGE] = False
    """Print the configuration, parameters, FLOPs, memory and schedule of the run, and stop."""
    compile_only: Annotated[str | None, MAY_CHANGE] = None
    """Compile the training step for a topology such as v5e:4x4, 2*v5e:4x4 (two slices), v4:2x2x2 or
    h100:1x8, print what its compiler says about memory, exchanges and time, and stop. Needs no such
    device, and, without dataset, no data: the step is the one for ImageNet."""
    compile_effort: Annotated[Literal["quick", "full", "forced"], MAY_CHANGE] = "quick"
    """compile-only: quick, a minute or so, says nothing of cycles; full, about ten times that, is
    what the device itself would get; forced: full for v6e too, whose compiler may not end."""
    compile_cache: Annotated[bool, MAY_CHANGE] = True
    """Keep compiled programs in WORKDIR/xla_cache, or in $JAX_COMPILATION_CACHE_DIR, and what
    compile-only has found in $INCEPTION_JAX_CACHE."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a network of the Inception family; the same command again resumes.

    An option that is not given takes the value of the recipe.
    """

    network: NetworkOptions = field(default_factory=NetworkOptions)
    run: RunOptions = field(default_factory=RunOptions)
    data: DataOptions = field(default_factory=DataOptions)
    input: InputOptions = field(default_factory=InputOptions)
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    batch: BatchOptions = field(default_factory=BatchOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    step: StepOptions = field(default_factory=StepOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)
    report: ReportOptions = field(default_factory=ReportOptions)
    hosts: HostOptions = field(default_factory=HostOptions)


def parse(argv: Sequence[str]) -> tuple[Config, Dataset]:
    """Reads the command line, and opens the data set whose size decides the recipe.

    Raises:
        UsageError: naming the option and what it may be.
        UnknownModelError: with near names.
        SystemExit: after `--help`, or for options that do not exist.
    """
    known = _first_look(argv)
    info = ij.model_info(known.arch)
    arch = info.arch
    if known.recipe not in (None, *recipes.names()):
        raise UsageError(f"unknown recipe {known.recipe!r}; there is {', '.join(recipes.names())}")
    dataset = _dataset(known)
    recipe = known.recipe or recipes.default_recipe(arch, len(dataset.train))
    published = {}
    if info.tag:  # what its publisher evaluates, and, where weights are given, their width
        published = {"image_size": info.input_size}
        published |= {"width_multiplier": 1.0} if known.init_from else {}
    defaults = {
        "arch": known.arch,
        "dataset": dataset.name,
        "workdir": Path("runs") / known.arch,
        "recipe": recipe,
        **recipes.options(recipe, arch, photographs=dataset.channels == 3),
        **published,
    }
    config = tyro.cli(
        Config,
        args=list(argv),
        default=fields.override(Config(), defaults),
        prog="train/main.py",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    fields.check_ranges(config)
    functional.check(config.network, config.input.image_size)
    loop.profile_range(config.loop)
    return config, dataset


def _dataset(known: argparse.Namespace) -> Dataset:
    """Opens the data set; to compile a step it is enough to know of what kind it is."""
    if known.compile_only and known.data_dir is None and known.dataset in (None, "imagenet2012"):
        return imagenet_placeholder()
    name = known.dataset or DataOptions.dataset
    return open_dataset(name, known.data_dir, known.train_split, known.eval_split, known.eval_share)


def _first_look(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the options that the others' defaults follow from."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--arch", default=NetworkOptions.arch)
    parser.add_argument("--recipe")
    parser.add_argument("--init-from")
    parser.add_argument("--dataset")
    parser.add_argument("--compile-only")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--train-split")
    parser.add_argument("--eval-split")
    parser.add_argument("--eval-share", type=float, default=DataOptions.eval_share)
    try:
        return parser.parse_known_args(argv)[0]
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None

"""The command line: the options of all packages. Options override the defaults of a recipe.

`given` handles `--help` and usage errors without importing jax. `parse` does the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import inception_jax as ij
from inception_jax import extras
from inception_jax.interrupts import print_all
from inception_jax.parser import versions
from train.config import fields, option_parser, recipes, usage
from train.config.fields import MAY_CHANGE, NOT_NEGATIVE
from train.data.datasets import Dataset, imagenet_placeholder
from train.data.options import DataOptions, InputOptions
from train.engine.training_options import (
    AugmentationOptions,
    LoopOptions,
    NetworkOptions,
    OptimizerOptions,
    ScheduleOptions,
    StepOptions,
)
from train.errors import UsageError
from train.hosts.host_options import BatchOptions, HostOptions
from train.report.report_options import ReportOptions
from train.run import scaling

if TYPE_CHECKING:  # help and usage errors must not wait for jax
    from inception_jax.weights.weight_file import WeightFile


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options for the recipe, workdir, seed, compilation, and commands that do not train."""

    recipe: str = "demo"
    """Named set of defaults for the other options, see train/config/recipes.py. Not given: the
    recipe of the network from 100,000 training images on, else demo."""
    workdir: Annotated[Path, MAY_CHANGE] = Path("runs")
    """Folder for checkpoints, logs and plots, created if missing. All processes must see it. If
    it holds a run, that run resumes. Not given: runs/ARCH-DATASET, or runs/ARCH-FOLDER for a
    folder of images."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the initial parameters, the order of the images, augmentation and dropout."""
    eval_only: Annotated[bool, MAY_CHANGE] = False
    """Evaluate the newest checkpoint of the workdir, and stop. If init-from is given and the
    workdir has no run that started from it: evaluate the weights of init-from, with the image size,
    crop and classes that the file or its tag states, and write nothing."""
    dry_run: Annotated[bool, MAY_CHANGE] = False
    """Print the configuration, parameters, FLOPs, memory and schedule of the run, and stop."""
    compile_only: Annotated[str | None, MAY_CHANGE] = None
    """Compile the training step for a topology such as v5e:4x4, 2*v5e:4x4 (two slices), v4:2x2x2 or
    h100:1x8, print the compiler's estimate of memory, communication and time, and stop. No such
    device is needed. If dataset is not given, no data are needed either, and the step is for
    ImageNet."""
    scaled: Annotated[dict[str, float], MAY_CHANGE] = field(default_factory=dict)
    """Options that follow from the number of images, see train/run/scaling.py."""
    compile_effort: Annotated[Literal["quick", "full", "forced"], MAY_CHANGE] = "quick"
    """Effort of compile-only. quick: takes about a minute, gives no estimate of the time. full:
    takes about ten times as long, gives the program that the device itself would run. forced: like
    full, also for v6e, where the compiler may not terminate."""
    compile_cache: Annotated[bool, MAY_CHANGE] = True
    """Cache compiled programs in WORKDIR/xla_cache or $JAX_COMPILATION_CACHE_DIR, and results of
    compile-only in $INCEPTION_JAX_CACHE."""


@dataclasses.dataclass(frozen=True)
class Config:
    """All options of a run.

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


def given(argv: Sequence[str]) -> dict[str, Any]:
    """Returns the values of the options that are on a command line, by name.

    Raises:
        UsageError: if an option is wrong. The message names it and suggests a similar one.
        SystemExit: after `--help`, `--help-all` and `--version`, with the exit code 0.
    """
    names = recipes.names()
    parser = option_parser.make_parser(
        list(option_parser.options_of(Config())), {"recipe": names}, prog="train/main.py"
    )
    for flags in (("-h", "--help"), ("--help-all",), ("--version",)):
        parser.add_argument(*flags, action="store_true", help=argparse.SUPPRESS)
    asked = {"-h", "--help", "--help-all", "--version"} & set(argv)
    if not asked:
        values = vars(parser.parse_args(list(argv)))
        return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    if asked == {"--version"}:
        print_all(versions("inception_jax's train/main.py"))
    else:
        print_all(_help(argv, every="--help-all" in asked))
    raise SystemExit(0)


def _help(argv: Sequence[str], *, every: bool) -> str:
    """Returns the help text, with the defaults of the network and recipe on the command line.

    Args:
        argv: the command line.
        every: describe all options, and not only the common ones.
    """
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    look.add_argument("--arch", default=NetworkOptions.arch)
    look.add_argument("--recipe", default=RunOptions.recipe)
    known = look.parse_known_args([word for word in argv if word not in ("-h", "--help")])[0]
    arch = known.arch.partition(".")[0]
    values: dict[str, Any] = dict(arch=known.arch, recipe=known.recipe)
    try:
        values |= recipes.options(known.recipe, arch, photographs=False)
    except (UsageError, KeyError):  # no such network or recipe: the help is of the plain defaults
        values = {}
    options = list(option_parser.options_of(fields.override(Config(), values)))
    if not every:
        return usage.short_help(options, recipes.names())
    parser = option_parser.make_parser(
        options,
        {"recipe": recipes.names()},
        prog="python train/main.py",
        usage="python train/main.py [--arch NAME] [--OPTION VALUE ...]",
        description=(
            "Trains a network of the Inception family; the same command again resumes. An option "
            "that is not given takes the value of the recipe. The defaults below are those of "
            f"{known.arch} under the recipe {known.recipe}: name others to see theirs."
        ),
    )
    return parser.format_help()


def parse(argv: Sequence[str]) -> tuple[Config, Dataset]:
    """Parses a command line into a `Config`, opens its `Dataset`, and returns both.

    The data set is opened here, because its size decides which recipe is the default.

    Raises:
        UsageError: if an option is wrong. The message names it and its valid values.
        UnknownModelError: if no network has this name; the message suggests similar names.
        SystemExit: see `given`.
    """
    options = given(argv)
    # These import jax. Help and usage errors must not wait for that.
    from train.engine import functional, loop

    undecided = dict.fromkeys(("arch", "recipe", "dataset", "workdir"))
    known = argparse.Namespace(**{**fields.flat(Config()), **undecided, **options})
    known.arch = known.arch or _start(known.init_from).get("arch") or NetworkOptions.arch
    evaluated = _evaluated_file(known)
    ij.model_info(known.arch)  # reports a wrong name before listing a large folder
    dataset = _dataset(known, evaluated)
    base = baseline(known, dataset, evaluated)
    config = fields.override(base, options)
    fields.check_ranges(config)
    if evaluated is None:
        config, dataset = _scaled(base, config, dataset, set(options))
    functional.check(config.network, config.input.image_size)
    loop.profile_range(config.loop)
    if config.report.tensorboard:
        extras.check("tensorboardX", "--tensorboard, the default,", UsageError)
    if config.report.wandb:
        extras.check("wandb", "--wandb", UsageError)
    return config, dataset


def baseline(
    known: argparse.Namespace, dataset: Dataset, evaluated: WeightFile | None = None
) -> Config:
    """Returns the configuration of the recipe, before other options override it.

    Existing weights can determine the image size and the width multiplier, instead of the recipe:
    the weights of the network's tag, of `--init-from`, or of `evaluated`.

    Args:
        known: values of all options. If `recipe` is None, `recipes.default_recipe` chooses the
            recipe by the network and the number of training images.
        dataset: data set of the run. The values of a recipe can depend on the number of channels.
        evaluated: weight file that is evaluated without a run. Its image size and width multiplier
            have priority. None if there is a run.

    Raises:
        UnknownModelError: if no network has this name; the message suggests similar names.
        UsageError: if no recipe is given and none is for this network, or if the recipe is `demo`
            and has no values for this network.
    """
    info, start = ij.model_info(known.arch), _start(known.init_from)
    recipe = known.recipe or recipes.default_recipe(info.arch, len(dataset.train))
    published = {}
    if info.tag:  # image size of the original evaluation; for given weights, their width too
        published = {"image_size": info.input_size}
        published |= {"width_multiplier": 1.0} if known.init_from else {}
    if start:  # no other width would fit
        published["width_multiplier"] = start["width_multiplier"]
        if recipe == "finetune" and "image_size" in start:
            published["image_size"] = start["image_size"]
    if evaluated:
        facts = evaluated.facts.preprocessing if evaluated.facts else info.preprocessing
        published = {
            "image_size": facts["input_size"],
            "width_multiplier": evaluated.spec.width_multiplier if evaluated.spec else 1.0,
        }
    defaults = {
        "arch": known.arch,
        "dataset": dataset.name,
        "workdir": default_workdir(known.arch, dataset.name, known.data_dir, recipe),
        "recipe": recipe,
        **recipes.options(recipe, info.arch, photographs=dataset.channels == 3),
        **published,
    }
    return fields.override(Config(), defaults)


def changes(config: Config, dataset: Dataset) -> dict[str, tuple[Any, Any]]:
    """Returns tuples (recipe's value, run's value) of the options that differ, by name.

    Args:
        config: configuration of the run.
        dataset: data set of the run, on which values of the recipe depend, see `baseline`.
    """
    usual = fields.flat(baseline(argparse.Namespace(**fields.flat(config)), dataset))
    own = fields.flat(config)
    names = own.keys() - {"scaled"}  # it describes other options
    return {n: (usual[n], own[n]) for n in own if n in names and own[n] != usual[n]}


def _scaled(
    base: Config, config: Config, dataset: Dataset, given: set[str]
) -> tuple[Config, Dataset]:
    """Scales options with the number of training images. Options that the user set do not change.

    A run that resumes keeps its values.

    Args:
        base: configuration of the recipe, from `baseline`.
        config: `base` with the options that the user set.
        dataset: data set of the run.
        given: names of the options that the user set.

    Returns:
        The configuration with the scaled options, and the data set with a line on them in `note`.

    Raises:
        UsageError: if only the classifier is to be trained first, but no weights are given.
    """
    head_first = config.run.recipe == "finetune" or config.schedule.head_epochs > 0
    if head_first and not (config.network.init_from or config.run.eval_only):
        raise UsageError(
            "--recipe finetune and --head-epochs need --init-from, weights that were trained: a "
            "published file, or the workdir of another run"
        )
    recipe, images = config.run.recipe, len(dataset.train)
    usual, options = fields.flat(base), fields.flat(config)
    changes = scaling.scaled(recipe, usual, options, given, images)
    changes = scaling.resumed(changes, given, config.run.workdir)
    notes = [dataset.note, scaling.note(recipe, usual, changes, images)]
    note = "\n".join(note for note in notes if note) or None
    config = fields.override(config, {**changes, "scaled": changes})
    return config, dataclasses.replace(dataset, note=note)


def _start(path: Path | None) -> dict[str, Any]:
    """Returns what the file of `--init-from` states about its network, as a dict; see `note_of`.

    The dict is empty if `path` is None.
    """
    if path is None:
        return {}
    from train.engine.initial_weights import note_of  # imports jax

    return note_of(path)


def default_workdir(arch: str, dataset: str, data_dir: Path | None, recipe: str = "") -> Path:
    """Returns the default path of a run's folder, which depends on the network and the data set.

    A fine-tuning run has its own folder, so that it can start from the folder of a training run.
    Two image folders with the same name share a run folder; `run.json` tells them apart, and a run
    on the other one is refused by default.

    Args:
        arch: name of the network.
        dataset: name of the data set; "folder" stands for the name of `data_dir`.
        data_dir: folder of the data set.
        recipe: name of the recipe.
    """
    name = data_dir.resolve().name if dataset == "folder" and data_dir else dataset
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "folder"
    return Path("runs") / f"{arch}-{name}{'-finetune' if recipe == 'finetune' else ''}"


def _evaluated_file(known: argparse.Namespace) -> WeightFile | None:
    """Opens the weight file that `--eval-only --init-from FILE` evaluates.

    With these options, FILE itself is evaluated, unless the workdir has a run that started from it.
    Then the run's checkpoint is evaluated.

    Args:
        known: values of all options.

    Returns:
        The weight file; None if no weight file is evaluated.

    Raises:
        UsageError: if a workdir is given and has a run that did not start from FILE, or if FILE
            does not exist.
    """
    if not known.eval_only or known.init_from is None:
        return None
    from inception_jax.weights import files, hub
    from inception_jax.weights.weight_file import open_weights
    from train.workdir.claim import has_checkpoints, holds_run_from

    arch = known.arch
    dataset, recipe = known.dataset or DataOptions.dataset, known.recipe or ""
    usual = default_workdir(arch, dataset, known.data_dir, recipe)
    if holds_run_from(known.workdir or usual, known.init_from):
        return None
    if known.workdir and has_checkpoints(known.workdir):
        raise UsageError(
            f"--eval-only: --workdir {known.workdir} holds a run that did not start from "
            f"--init-from {known.init_from}: leave out --init-from to evaluate the run, or "
            "--workdir to evaluate the file"
        )
    if not known.init_from.is_dir() and not files.exists(known.init_from):
        raise UsageError(f"--init-from {known.init_from}: no such file")
    return open_weights(arch, hub.weights_in(known.init_from))


def _dataset(known: argparse.Namespace, evaluated: WeightFile | None) -> Dataset:
    """Opens the data set of a command line.

    To compile a step for ImageNet, a data set without images is enough.

    Args:
        known: values of all options.
        evaluated: weight file that is evaluated without a run; None if there is a run. With such a
            file, a folder of images needs no training images, unless test images are held out from
            them.
    """
    # These import the decoders of images.
    from train.data.image_folder import has_test_images, open_test_folder
    from train.data.open_dataset import open_dataset

    folder = known.data_dir if known.dataset == "folder" else None
    if evaluated and folder and folder.is_dir():
        trained_here = evaluated.facts is not None and evaluated.facts.training is not None
        # A network trained here may have seen all images except the share held out for tests.
        if not trained_here or has_test_images(folder, known.eval_split):
            return open_test_folder(folder, known.eval_split)
    if known.compile_only and known.data_dir is None and known.dataset in (None, "imagenet2012"):
        return imagenet_placeholder()
    name = known.dataset or DataOptions.dataset
    return open_dataset(name, known.data_dir, known.train_split, known.eval_split, known.eval_share)

"""The command line: one frozen dataclass, filled by a recipe and overridden by options."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

import inception_jax as ij
from inception_jax.nn.rewrites import REWRITES, Rewrite
from inception_jax.weights import files
from train.config import recipes
from train.data.datasets import Dataset, imagenet_placeholder
from train.data.open_dataset import open_dataset
from train.errors import UsageError

Dtype = Literal["float32", "bfloat16", "float64"]

DEFAULT_ARCH = "xception"
DEFAULT_DATASET = "fashion_mnist"


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a network of the Inception family; the same command again resumes.

    An option that is not given takes the value of the recipe.
    """

    arch: str
    """Network to train: see `inception_jax.list_models()`."""
    recipe: str = "demo"
    """Named set of defaults for the options below, see train/recipes.py: demo, googlenet,
    bn_inception, inception_v3, inception_v3_tpu, inception_v4, inception_resnet, xception_imagenet,
    xception_jft, inception_next, inception_next_atto. Not given: the network's own where there are
    100,000 training images or more, else demo."""
    dataset: str = DEFAULT_DATASET
    """Images to train on. fashion_mnist: 6,000 training and 1,000 test images that come with the
    repository, 28x28 grey, ten classes. folder: DATA_DIR/{train,val}/CLASS/*. Another name, such
    as imagenet2012: that TFDS data set, prepared as array_record in DATA_DIR (train/prepare.py)."""
    data_dir: Path | None = None
    """Folder of the data set."""
    train_split: str | None = None
    """Split to train on; not given: train."""
    eval_split: str | None = None
    """Split to evaluate on; not given: the first of val, validation and test that there is."""
    workdir: Path = Path("runs")
    """Folder for checkpoints, logs and pictures, which all processes see; made if absent."""
    seed: int = 0
    """Seed of the initial parameters, the order of the images, augmentation and dropout."""
    init_from: Path | None = None
    """Weight file to start from, of any layout that load_weights reads; a classifier of another
    size, or one that the file lacks, starts anew."""
    freeze_backbone: bool = False
    """Train the classifier alone: all other parameters and BatchNorm's statistics stay as they are
    in init-from."""
    eval_only: bool = False
    """Evaluate the newest checkpoint of the workdir, or the weights of init-from, and stop."""
    compile_only: str | None = None
    """Compile the training step for a topology such as v5e:4x4, 2*v5e:4x4 (two slices), v4:2x2x2 or
    h100:1x8, print what its compiler says about memory, exchanges and time, and stop. Needs no such
    device, and, without dataset, no data: the step is the one for ImageNet."""
    compile_effort: Literal["quick", "full", "forced"] = "quick"
    """compile-only: quick, a minute or so, says nothing of cycles; full, about ten times that, is
    what the device itself would get; forced: full for v6e too, whose compiler may not end."""
    dry_run: bool = False
    """Print the configuration, parameters, FLOPs, memory and schedule of the run, and stop."""

    # The network
    image_size: int = 299
    """Side that images are cut and resized to, in pixels."""
    width_multiplier: float = 1.0
    """Factor on every channel count of the network."""
    dtype: Dtype = "float32"
    """What the network computes in; parameters and statistics are float32. float64, for all of
    them, tells rounding from mistakes: on a CPU, two runs that differ in float32 agree in it."""
    grad_reduce: Literal["float32", "bfloat16"] = "float32"
    """What the devices' gradients of convolution and classifier kernels are summed in, where the
    network computes in bfloat16; everything else is summed in float32."""
    remat: bool = False
    """Keep only the outputs of convolutions for the backward pass and compute the rest again:
    a third less memory for about a seventh more time on TPUs."""
    rewrites: tuple[Rewrite, ...] = REWRITES
    """Exact rewritings of the network to be used, see inception_jax/rewrites.py; given
    without any, every sum is the paper's."""
    dropout: float = 0.2
    """Share of the features before the classifier that is dropped."""
    drop_path: float | None = None
    """Stochastic depth of the last block, of InceptionNeXt and the aligned Xceptions; not given:
    the network's own."""
    bn_momentum: float = 0.9997
    """BatchNorm: share of the running statistics that a step keeps."""

    # The batch
    batch_size: int = 32
    """Images in a step, over all devices."""
    grad_accum: int = 1
    """Parts that a batch is computed in, one after another; BatchNorm's statistics are those of a
    part, the gradient and the update those of the whole batch."""
    bn_group: int = 0
    """Images that share BatchNorm's statistics, as a replica's did; 0: the whole batch, or part."""
    epochs: float = 1.0
    """Passes over the training images."""
    steps: int | None = None
    """Training steps, instead of epochs."""

    # Optimiser
    optimizer: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    """rmsprop: TensorFlow's form; sgd: with momentum."""
    learning_rate: float = 0.045
    """Highest rate, before lr-base-batch."""
    lr_base_batch: int = 0
    """The rate is multiplied by batch-size / lr-base-batch; 0: it stays as it is."""
    lr_schedule: Literal["exponential", "cosine", "polynomial"] = "exponential"
    """How the rate falls, from step 0 to the last."""
    lr_decay: float = 0.94
    """exponential: factor on the rate over each lr-decay-epochs."""
    lr_decay_epochs: float = 2.0
    """See lr-decay, in epochs."""
    lr_decay_images: int = 0
    """The same in images, instead of epochs; 0: in epochs."""
    lr_staircase: bool = False
    """exponential: all of lr-decay at the end of its period, instead of a little at every step."""
    lr_power: float = 0.5
    """polynomial: power of the share of the steps that is left."""
    lr_floor: float = 0.0
    """Lowest rate, as a share of the highest; of the cosine, where it ends."""
    warmup_epochs: float = 0.0
    """Epochs in which the rate rises in a line from warmup-start to the schedule."""
    warmup_start: float = 0.1
    """Rate at the start of the warm-up, as a share of the highest."""
    cold_epochs: float = 0.0
    """Epochs before the warm-up, at its first rate."""
    momentum: float = 0.9
    """rmsprop, sgd: share of the last update that a step keeps."""
    rms_decay: float = 0.9
    """rmsprop: share of the mean square that a step keeps."""
    rms_eps: float = 1.0
    """rmsprop: added to the mean square under the root."""
    adam_b1: float = 0.9
    """adamw: share of the mean gradient that a step keeps."""
    adam_b2: float = 0.999
    """adamw: share of the mean square that a step keeps."""
    adam_eps: float = 1e-8
    """adamw: added to the root of the mean square."""
    weight_decay: float = 4e-5
    """On convolution and classifier kernels. rmsprop, sgd: L2, a part of the gradient; adamw: a
    share of the weight times the rate, apart from the gradient."""
    bias_lr_multiplier: float = 1.0
    """Factor on the updates of biases."""
    clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0: no limit."""
    label_smoothing: float = 0.1
    """Share of the label spread evenly over all classes."""
    aux_weight: float = 0.4
    """Weight of each auxiliary classifier's loss, for networks that have one."""
    ema_decay: float = 0.9999
    """Share of the averaged parameters and statistics that a step keeps, after a warm-up of
    (1 + step) / (10 + step). The averages are what is evaluated and exported. 0: no averages."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite: stop, or leave everything but the step as it was."""

    # Images
    crop: Literal["inception", "window", "none"] = "none"
    """Of training images. inception: of random area and aspect ratio; window: a square of
    image-size from the image warped to 8/7 of it; none: the whole image."""
    crop_area_min: float = 0.08
    """crop inception: smallest share of the image's area."""
    flip: bool = True
    """Mirror every second training image."""
    distort: Literal["none", "inception"] = "none"
    """inception: brightness, saturation, hue and contrast changed at random, as TF-slim does."""
    randaugment: float = 0.0
    """Magnitude of RandAugment, two operations an image, timm's rand-m9-mstd0.5-inc1; 0: none."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution; with cutmix, each batch takes one of them. 0: none."""
    cutmix: float = 0.0
    """The same for cutmix."""
    random_erasing: float = 0.0
    """Share of the training images that a rectangle of noise is put into."""
    eval_crop_fraction: float = 0.875
    """Central share of each side that is evaluated, of encoded images."""
    eval_crops: Literal[1, 12, 144] = 1
    """Views of an image over which predictions are averaged, by the papers' protocols."""
    eval_exclude: Path | None = None
    """Test images to leave out: a text file with a name, or a number of ImageNet's validation
    images, on each line (the devkit's blacklist)."""
    max_bad_images: int = 100
    """Unreadable or mislabelled images that are passed over before the run ends with an error."""
    workers: int | None = None
    """Processes that decode images, on each host; 0: threads of the main one. Not given: one for a
    processor from 50,000 images on, else 0."""

    # Devices
    distributed: Literal["auto", "on", "off"] = "auto"
    """Several processes in one run: auto asks Slurm, Open MPI, TPUs, or takes the options below."""
    coordinator: str | None = None
    """Address and port of process 0, where the cluster does not tell."""
    num_processes: int | None = None
    """Processes in all, where the cluster does not tell."""
    process_id: int | None = None
    """Number of this process from 0, where the cluster does not tell."""
    heartbeat_timeout: int = 60
    """Seconds after which the processes of a run give up one that is not heard of."""

    # What is kept and shown
    log_every: int = 10
    """Steps between lines of the log."""
    eval_every: float = 1.0
    """Epochs between evaluations; there is also one at the end."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; there is also one at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept, beside the one with the best evaluation."""
    profile_steps: str | None = None
    """A:B writes a profile of these steps to WORKDIR/profile, for TensorBoard or Perfetto."""
    compile_cache: bool = True
    """Keep compiled programs in WORKDIR/xla_cache, or in $JAX_COMPILATION_CACHE_DIR, and what
    compile-only has found in $INCEPTION_JAX_CACHE."""
    tensorboard: bool = True
    """Write metrics for TensorBoard too, to WORKDIR/tensorboard."""
    wandb: str | None = None
    """Project of Weights & Biases to log to; needs the package wandb."""


def parse(argv: Sequence[str]) -> tuple[Config, Dataset]:
    """Reads the command line, and opens the data set whose size decides the recipe.

    Raises:
        UsageError: naming the option and what it may be.
        UnknownModelError: with near names.
        SystemExit: after `--help`, or for options that do not exist.
    """
    known = _first_look(argv)
    arch = ij.model_info(known.arch).arch
    if known.recipe not in (None, *recipes.names()):
        raise UsageError(f"unknown recipe {known.recipe!r}; there is {', '.join(recipes.names())}")
    dataset = _dataset(known)
    recipe = known.recipe or recipes.default_recipe(arch, len(dataset.train))
    defaults = Config(
        arch=known.arch,
        dataset=dataset.name,
        workdir=Path("runs") / known.arch,
        **{"recipe": recipe, **recipes.options(recipe, arch, photographs=dataset.channels == 3)},
    )
    config = tyro.cli(Config, args=list(argv), default=defaults, prog="train/main.py")
    _check(config)
    return config, dataset


def _dataset(known: argparse.Namespace) -> Dataset:
    """Opens the data set; to compile a step it is enough to know of what kind it is."""
    if known.compile_only and known.data_dir is None and known.dataset in (None, "imagenet2012"):
        return imagenet_placeholder()
    name = known.dataset or DEFAULT_DATASET
    return open_dataset(name, known.data_dir, known.train_split, known.eval_split)


def _first_look(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the options that the others' defaults follow from."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--arch", default=DEFAULT_ARCH)
    parser.add_argument("--recipe")
    parser.add_argument("--dataset")
    parser.add_argument("--compile-only")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--train-split")
    parser.add_argument("--eval-split")
    try:
        return parser.parse_known_args(argv)[0]
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None


_POSITIVE = ("batch_size", "grad_accum", "epochs", "steps", "width_multiplier", "learning_rate",
             "log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "lr_decay",
             "lr_decay_epochs", "crop_area_min", "eval_crop_fraction", "heartbeat_timeout",
             "num_processes")  # fmt: skip
_NOT_NEGATIVE = ("bn_group", "lr_base_batch", "lr_decay_images", "lr_power", "warmup_epochs",
                 "cold_epochs", "rms_eps", "adam_eps", "weight_decay", "bias_lr_multiplier",
                 "clip_norm", "aux_weight", "randaugment", "mixup", "cutmix", "max_bad_images",
                 "workers", "process_id", "seed")  # fmt: skip
_BELOW_ONE = ("rms_decay", "momentum", "adam_b1", "adam_b2", "label_smoothing", "ema_decay",
              "dropout", "drop_path", "bn_momentum")  # fmt: skip
_STOCHASTIC_DEPTH = ("inception_next", "xception4", "xception6", "xception7")
_SHARES = ("crop_area_min", "eval_crop_fraction", "random_erasing", "lr_floor", "warmup_start")


def _check(config: Config) -> None:
    info = ij.model_info(config.arch)
    if config.image_size < info.min_size:
        raise UsageError(
            f"--image-size {config.image_size} is below the minimum of {config.arch}, "
            f"{info.min_size}"
        )
    for name, value in dataclasses.asdict(config).items():
        option = f"--{name.replace('_', '-')} {value}"
        if not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            raise UsageError(f"{option}: must be a finite number")
        if name in _POSITIVE and value <= 0:
            raise UsageError(f"{option}: must be above zero")
        if name in (*_NOT_NEGATIVE, *_BELOW_ONE, *_SHARES) and value < 0:
            raise UsageError(f"{option}: must be at least 0")
        if name in _BELOW_ONE and value >= 1:
            raise UsageError(f"{option}: must be at least 0 and below 1")
        if name in _SHARES and value > 1:
            raise UsageError(f"{option}: must be at most 1")
    if config.drop_path is not None and not info.arch.startswith(_STOCHASTIC_DEPTH):
        raise UsageError(f"--drop-path: {info.arch} has no stochastic depth")
    if config.grad_reduce == "bfloat16" and config.dtype != "bfloat16":
        raise UsageError("--grad-reduce bfloat16 is for networks in --dtype bfloat16")
    if config.init_from is not None and not files.exists(config.init_from):
        raise UsageError(f"--init-from {config.init_from}: no such file")
    if config.freeze_backbone and config.init_from is None:
        raise UsageError("--freeze-backbone needs --init-from: random features teach nothing")
    profile_range(config)


def profile_range(config: Config) -> tuple[int, int] | None:
    """Returns the first and the last step, exclusive, of `--profile-steps A:B`."""
    if config.profile_steps is None:
        return None
    start, colon, stop = config.profile_steps.partition(":")
    if not (colon and start.isdigit() and stop.isdigit() and int(start) < int(stop)):
        raise UsageError(f"--profile-steps {config.profile_steps}: must be A:B with A below B")
    return int(start), int(stop)

"""Formats the text of `--help`: the options that most runs need, one line each."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from train.config.option_parser import Option

_WIDTH = 80

_HEAD = """usage: python train/main.py [--arch NAME] [--OPTION VALUE ...]

Trains a network of the Inception family. The same command again resumes.

examples:
  python train/main.py                             a small Xception, in minutes
  python train/main.py --arch inception_v3 --dataset folder --data-dir photos
                                                   your images, photos/train/CLASS/*.jpg
  python train/main.py --arch inception_v3 --dry-run         print the plan of a run
"""

_COMMON: dict[str, dict[str, tuple[str, str]]] = {
    "network and recipe": {
        "arch": ("NAME", "network, see `inception-jax list`"),
        "recipe": ("NAME", "set of defaults for the other options, see below"),
        "init_from": ("FILE", "weights to start from"),
        "freeze_backbone": ("", "train only the classifier"),
        "head_epochs": ("X", "first train only the classifier"),
    },
    "data": {
        "dataset": ("NAME", "fashion_mnist, folder, or TFDS name"),
        "data_dir": ("FOLDER", "where the data set is"),
        "image_size": ("N", "side of the images, in pixels"),
        "workers": ("N", "processes that decode images"),
    },
    "length and rate": {
        "epochs": ("X", "passes over the training images"),
        "steps": ("N", "training steps, instead of epochs"),
        "batch_size": ("N", "images in a step, over all devices"),
        "grad_accum": ("N", "parts of a batch, to save memory"),
        "learning_rate": ("X", "peak learning rate"),
        "warmup_epochs": ("X", "epochs in which the rate rises"),
    },
    "optimiser and regularisation": {
        "optimizer": ("NAME", "rmsprop, sgd or adamw"),
        "weight_decay": ("X", "weight decay of kernels"),
        "label_smoothing": ("X", "share of the target spread over all classes"),
        "dropout": ("X", "dropout rate before the classifier"),
        "ema_decay": ("X", "moving average of weights; 0: off"),
        "randaugment": ("X", "magnitude of RandAugment; 0: off"),
        "mixup": ("X", "alpha of mixup; 0: off"),
        "cutmix": ("X", "alpha of CutMix; 0: off"),
    },
    "the run": {
        "workdir": ("FOLDER", "for checkpoints, logs, pictures, weights; default: in runs/"),
        "seed": ("N", "seed of all random numbers"),
        "dtype": ("NAME", "bfloat16 is faster on TPUs and GPUs"),
        "log_every": ("N", "steps between lines of the log"),
        "eval_every": ("X", "epochs between evaluations"),
        "checkpoint_every": ("N", "steps between checkpoints"),
        "eval_only": ("", "evaluate, and stop"),
        "dry_run": ("", "print configuration, size, memory, and stop"),
        "compile_only": ("TOPOLOGY", "compile for devices elsewhere, and stop"),
    },
}


def short_help(options: Iterable[Option], recipes: Iterable[str]) -> str:
    """Returns the help of the common options, and the flags of all other options.

    Args:
        options: all options, with the defaults to show.
        recipes: names of all recipes.
    """
    left = {option.name: option for option in options}
    lines = [_HEAD]
    for section, common in _COMMON.items():
        lines.append(f"{section}:")
        lines += [_line(left.pop(name), *text) for name, text in common.items()]
    flags = " ".join(option.flag for option in left.values())
    lines += [
        "",
        *_wrapped("recipes: ", ", ".join(recipes) + "; not given, the data decide"),
        *_wrapped("other options: ", flags),
        "",
        "--help-all describes every option, --version shows the versions.",
    ]
    return "\n".join(lines)


def _line(option: Option, value: str, text: str) -> str:
    default = f" (default: {option.shown_default})"
    # No default is shown for flags that are off, and for options that depend on other options.
    plain = not value or option.default is None or option.name in ("recipe", "workdir")
    return f"  {f'{option.flag} {value}':26}{text}{'' if plain else default}"


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        head + text,
        _WIDTH,
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )

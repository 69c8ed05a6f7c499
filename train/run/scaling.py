"""Scales options of a recipe, such as the number of epochs, with the number of training images.

The recipe `demo` was tuned on 5,000 photographs, and is scaled for fewer images of any kind. The
recipe `finetune` is always scaled. Options that the user gave are not changed. A run that resumes
keeps its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from train.workdir import claim

Options = Mapping[str, Any]

ENOUGH = 5_000
"""From this number of images on, `demo` is not scaled."""
_VIEWS = 15_000  # images in all epochs of a fine-tuning run
_EPOCHS = (5.0, 40.0)  # epochs of a fine-tuning run, at least and at most
_EVALUATIONS = 20  # evaluations in a run of many short epochs
_DROPPED = 0.05  # share of an epoch's images that may be left over


def scaled(
    recipe: str, base: Options, options: Options, given: Set[str], images: int
) -> dict[str, Any]:
    """Returns the options that change with the number of training images, with their new values.

    The recipe `demo` is scaled for fewer than `ENOUGH` images, by the rules of `_demo`; `finetune`
    always, by those of `_finetune`; other recipes never. Batch size, epochs, learning rate and
    decay, warm-up, moving average and evaluations may change.

    Args:
        recipe: name of the recipe.
        base: values of all options in the recipe.
        options: values of all options, with those of the user in place of the recipe's.
        given: names of the options that the user gave, which are not changed.
        images: number of training images.
    """
    if recipe == "finetune":
        changes = _finetune(base, options, given, images)
    elif recipe == "demo" and 0 < images < ENOUGH:
        changes = _demo(base, options, given, images)
    else:
        return {}
    return {n: v for n, v in changes.items() if n not in given and options[n] != v}


def _demo(base: Options, options: Options, given: Set[str], images: int) -> dict[str, Any]:
    """Scales the options of `demo`.

    The number of images in all epochs scales with the square root of the number of training images.
    The periods of warm-up and decay scale with the length of the run. The learning rate scales with
    the square root of the batch size. Moving averages cover the same share of the run.

    The arguments are those of `scaled`. The result has the scaled options by name; `scaled` leaves
    out those that the user gave.
    """
    size = _batch(base["batch_size"], options, given, images)
    epochs = _epochs(
        round(base["epochs"] * math.sqrt(ENOUGH / images)), options, given, size, images
    )
    steps, usual = epochs * max(images // size, 1), base["epochs"] * ENOUGH / base["batch_size"]
    stretch = epochs / base["epochs"]
    return dict(
        batch_size=size,
        epochs=epochs,
        learning_rate=_rounded(base["learning_rate"] * math.sqrt(size / base["batch_size"])),
        lr_decay_epochs=_rounded(base["lr_decay_epochs"] * stretch),
        warmup_epochs=_rounded(base["warmup_epochs"] * stretch),
        ema_decay=_rounded(1 - min((1 - base["ema_decay"]) * max(usual / steps, 1), 0.5)),
        eval_every=_evaluations(epochs),
    )


def _finetune(base: Options, options: Options, given: Set[str], images: int) -> dict[str, Any]:
    """Scales options of the recipe `finetune` with the number of training images.

    The number of epochs is 15,000 divided by the number of images, but between 5 and 40. The first
    fifth of the run trains only the classifier. Options that the user gave, such as the number of
    epochs, are taken into account.

    The arguments are those of `scaled`. The result has the scaled options by name; `scaled` leaves
    out those that the user gave.
    """
    size = _batch(64 if images >= ENOUGH else 32, options, given, images)
    least, most = _EPOCHS
    views = round(min(max(_VIEWS / max(images, 1), least), most))
    epochs = _epochs(views, options, given, size, images)
    head = 0.0 if options["freeze_backbone"] else _rounded(0.2 * epochs)
    rest = epochs - (options["head_epochs"] if "head_epochs" in given else head)
    scale = math.sqrt(size / base["batch_size"])
    return dict(
        batch_size=size,
        epochs=epochs,
        head_epochs=head,
        warmup_epochs=_rounded(0.1 * max(rest, 0)),
        learning_rate=_rounded(base["learning_rate"] * scale),
        head_learning_rate=_rounded(base["head_learning_rate"] * scale),
        eval_every=_evaluations(epochs),
    )


def _batch(usual: int, options: Options, given: Set[str], images: int) -> int:
    """Returns a batch size of at most `usual` that fits the number of images.

    If the user gave `batch_size`, `grad_accum` or `bn_group`, returns the batch size of `options`.

    Args:
        usual: largest batch size to return, unless the user's is returned.
        options, given, images: see `scaled`.
    """
    if given & {"batch_size", "grad_accum", "bn_group"}:
        return options["batch_size"]
    return fitting_batch(usual, images)


def _epochs(own: float, options: Options, given: Set[str], size: int, images: int) -> float:
    """Returns the number of epochs of the run.

    If the user gave a number of steps, it determines the epochs. Otherwise this returns the user's
    number of epochs, or `own` if the user gave neither.

    Args:
        own: number of epochs by the recipe's rules.
        options, given, images: see `scaled`.
        size: batch size.
    """
    if options["steps"]:
        return options["steps"] / max(images // size, 1)
    return options["epochs"] if "epochs" in given else float(own)


def fitting_batch(most: int, images: int) -> int:
    """Returns a batch size that fits the number of images, even in a small data set.

    With 32 images or more, an epoch has at least four batches. If possible, at most 5 % of an
    epoch's images are left over. The size is a multiple of eight, to suit several devices; with
    fewer than eight images, it is a power of two.

    Args:
        most: largest batch size to return, at least 8.
        images: number of training images.
    """
    most = min(most, max(images // 4, 8))
    for size in range(most - most % 8, 0, -8):
        if images % size <= _DROPPED * images:
            return size
    return 1 << (min(8, max(images, 1)).bit_length() - 1)


def note(recipe: str, base: Options, changes: Options, images: int) -> str | None:
    """Returns a line on the options that follow from the number of training images.

    The line has the options with their values, such as "--epochs 12". For the recipe `demo`, it
    also has the values of the recipe.

    Args:
        recipe: name of the recipe.
        base: values of all options in the recipe.
        changes: the options that follow from the number of images, with their values.
        images: number of training images.

    Returns:
        The line; None if `changes` is empty.
    """
    if not changes:
        return None
    usual = {n: f" instead of {base[n]:g}" if recipe == "demo" else "" for n in changes}
    told = (f"--{n.replace('_', '-')} {v:g}{usual[n]}" for n, v in changes.items())
    return f"for {images:,} training images the recipe {recipe} takes {', '.join(told)}"


def resumed(changes: dict[str, Any], given: Set[str], folder: Path) -> dict[str, Any]:
    """Returns the scaled options of a run, with the values that the run in its workdir already has.

    These values may differ from `changes`, because images were added since, or because another
    version of this program scaled them. If a version without scaling started the run, the result is
    empty. If the workdir has no checkpoints, the result is `changes`.

    Args:
        changes: the options that follow from the number of images, with their values.
        given: names of the options that the user gave, which are left out.
        folder: the workdir.
    """
    if not claim.has_checkpoints(folder):
        return changes
    stored = claim.stored_options(folder)
    if stored is None:
        return changes  # `claim.compare` reports differences from the checkpoint's copy
    if not isinstance(stored.get("scaled"), dict):
        return {}
    free = {n: v for n, v in changes.items() if n in ("epochs", "eval_every")}
    return {n: v for n, v in {**free, **stored["scaled"]}.items() if n not in given}


def _evaluations(epochs: float) -> float:
    return float(max(round(epochs / _EVALUATIONS), 1))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")

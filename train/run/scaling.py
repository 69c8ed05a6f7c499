"""What a recipe says for a small data set: options that follow from the number of images.

`demo` was tuned on 5,000 photographs, `finetune` has no values of its own for these options. The
options that the user gives stay, and so do those of a run that is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from train.workdir import claim

Options = Mapping[str, Any]

ENOUGH = 5_000
"""Images from which on `demo` is as it is."""
_VIEWS = 15_000  # of images, in all epochs of a fine-tuning
_EPOCHS = (5.0, 40.0)  # of a fine-tuning, at least and at most
_EVALUATIONS = 20  # in a run of many short epochs
_DROPPED = 0.05  # share of an epoch's images that may be left over


def scaled(
    recipe: str, base: Options, options: Options, given: Set[str], images: int
) -> dict[str, Any]:
    """Returns the options that follow from the number of images, with their values.

    Args:
        recipe: its name.
        base: all options, by the recipe alone.
        options: all options, by the recipe and the user.
        given: names of those that the user gave, which stay.
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
    """Steps in proportion to the root of the images; all else in proportion to the steps.

    The rate goes with the root of the batch. Averages reach over the same share of the run.
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
    """As many views of images whatever their number, within limits; a fifth for the head alone."""
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
    """The user's batch, or one that fits where the user's parts and groups need not divide it."""
    if given & {"batch_size", "grad_accum", "bn_group"}:
        return options["batch_size"]
    return fitting_batch(usual, images)


def _epochs(own: float, options: Options, given: Set[str], size: int, images: int) -> float:
    """The user's epochs or steps, in epochs, or these."""
    if options["steps"]:
        return options["steps"] / max(images // size, 1)
    return options["epochs"] if "epochs" in given else float(own)


def fitting_batch(most: int, images: int) -> int:
    """Returns a batch size for few images: four batches an epoch, and few images left over.

    Multiples of eight, which several devices can share; below eight images, a power of two.
    """
    most = min(most, max(images // 4, 8))
    for size in range(most - most % 8, 0, -8):
        if images % size <= _DROPPED * images:
            return size
    return 1 << (min(8, max(images, 1)).bit_length() - 1)


def note(recipe: str, base: Options, changes: Options, images: int) -> str | None:
    """Says what follows from the number of images, None if nothing does."""
    if not changes:
        return None
    usual = {n: f" instead of {base[n]:g}" if recipe == "demo" else "" for n in changes}
    told = (f"--{n.replace('_', '-')} {v:g}{usual[n]}" for n, v in changes.items())
    return f"for {images:,} training images the recipe {recipe} takes {', '.join(told)}"


def resumed(changes: dict[str, Any], given: Set[str], folder: Path) -> dict[str, Any]:
    """Returns the changes with the values of the run that a workdir holds.

    Images may have been added since, or the rules may be of another version. A run of a version
    without rules has none.
    """
    if not claim.has_checkpoints(folder):
        return changes
    stored = claim.stored_options(folder)
    if stored is None:
        return changes  # `claim.compare` says what differs from the checkpoint's copy
    if not isinstance(stored.get("scaled"), dict):
        return {}
    free = {n: v for n, v in changes.items() if n in ("epochs", "eval_every")}
    return {n: v for n, v in {**free, **stored["scaled"]}.items() if n not in given}


def _evaluations(epochs: float) -> float:
    return float(max(round(epochs / _EVALUATIONS), 1))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")

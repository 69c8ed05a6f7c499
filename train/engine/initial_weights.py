"""The initial weights of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors

import inception_jax as ij
from inception_jax.nn.model import Model
from inception_jax.weights import files, hub
from inception_jax.weights.loading import unfit_heads
from inception_jax.weights.weight_file import METADATA_KEY, open_weights, spec_of
from inception_jax.weights.weights_error import WeightsError
from train import storage
from train.errors import UsageError
from train.hosts import processes


def start_file(path: Path) -> Path:
    """Returns the path of the weight file that the value of `--init-from` names.

    Args:
        path: path of a weight file, which is returned unchanged, or of a folder that contains
            `weights.safetensors`, such as that of a run, or `model.safetensors`.

    Raises:
        UsageError: if there is no weight file, or the path is in a bucket.
    """
    if storage.is_remote(path):
        raise UsageError(f"--init-from {path}: copy it to a local disk, and name that")
    try:
        file = hub.weights_in(path)
    except FileNotFoundError as error:
        raise UsageError(f"--init-from: {error}") from None
    if not files.exists(file):
        raise UsageError(f"--init-from {path}: no such file")
    return file


def note_of(path: Path) -> dict[str, Any]:
    """Returns what a file from `save_weights` states about its network. Reads no tensors.

    Returns:
        A dict of `arch`, `width_multiplier` and, if known, `image_size`. It is empty for a file
        that `save_weights` did not write, and for a file that cannot be read. When such
        a file is loaded later, an error reports the reason.
    """
    file = start_file(path)
    if file.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(file, "numpy") as stream:
            saved = json.loads((stream.metadata() or {})[METADATA_KEY])
        note = {"arch": saved["name"], "width_multiplier": saved["width_multiplier"]}
        if saved.get("facts"):
            note["image_size"] = saved["facts"]["preprocessing"]["input_size"]
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError):
        return {}
    return note


def load_start(model: Model, path: Path) -> None:
    """Loads weights into a new network, except for classifiers that do not fit.

    A classifier that has another number of classes in the file, and classifiers that the file
    lacks, keep their random initial values. A line on standard output reports this.

    Args:
        model: network from `create_model`.
        path: path of a weight file in any layout that `load_weights` reads, or of the folder of a
            run.

    Raises:
        WeightsError: if any other weights do not fit.
    """
    spec = spec_of(model)
    file = open_weights(spec.name, start_file(path))
    if file.spec and file.spec.in_channels != spec.in_channels:
        raise WeightsError(
            f"{path} is a network for images of {file.spec.in_channels} channel(s), the data set "
            f"has {spec.in_channels}: start from another file"
        )
    unfit = unfit_heads(model, file)
    ij.load_weights(model, file, skip=unfit)
    if not processes.is_main():
        return
    absent = [name for name in unfit if name in model.aux_names]
    if len(absent) < len(unfit):
        print(f"{path} has no classifier of this size: it starts from random values")
    if absent:
        print(f"{path} has no {' and '.join(absent)}: these start from random values")

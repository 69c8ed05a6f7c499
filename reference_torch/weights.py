"""Converts weights of `inception_jax`, from a mapping or a file, to PyTorch tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

_TRAINING_ONLY = {"dropout", "aux_dropout", "drop_path", "bn_momentum"}


def tensors_of(arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Converts the NumPy arrays of a mapping to tensors. Tensors in it are unchanged."""
    return {name: _tensor(value) for name, value in arrays.items()}


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":  # a NumPy extension type, unknown to PyTorch
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.as_tensor(array)


def read(path: str | os.PathLike[str], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a weight file into a state dict.

    Args:
        path: path of a weight file: either `.safetensors`, written by `inception_jax.save_weights`,
            or `.pth`, `.pt` or `.bin`, with this twin's state dict. If the path is a folder, its
            `weights.safetensors` is read, or else its `model.safetensors`.
        name: name of the network that is to load the weights.
        options: options of that network, with `num_classes`, `in_channels` and `width_multiplier`.

    Returns:
        The state dict.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file has an unknown suffix, or if its metadata say that it belongs to
            another network or to a network with other options.
    """
    path = Path(path)
    if path.is_dir() and (path / "weights.safetensors").is_file():
        path = path / "weights.safetensors"
    elif path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no weight file at {path}")
    if path.suffix in (".pth", ".pt", ".bin"):
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path}: the twin reads .safetensors, .pth, .pt and .bin; "
            "inception-jax convert reads others"
        )
    with safetensors.safe_open(path, framework="pt") as file:
        said = (file.metadata() or {}).get("inception_jax")
    if said is not None:
        _check(path, json.loads(said), name, options)
    return safetensors.torch.load_file(path)


def _check(path: Path, said: Mapping[str, Any], name: str, options: Mapping[str, Any]) -> None:
    """Checks that a file's metadata describe the network that is to load the file.

    Args:
        path: path of the file, for the error message.
        said: the metadata: name and options of the file's network.
        name: name of the network that is to load the file.
        options: options of that network.

    Raises:
        ValueError: if they describe another network. The message shows the call of `create_model`
            that fits the file.
    """
    needed = {
        "num_classes": said["num_classes"],
        "in_channels": said["in_channels"],
        "width_multiplier": said["width_multiplier"],
        **{k: v for k, v in said["readings"] if k not in _TRAINING_ONLY},
    }
    wrong = {k: v for k, v in needed.items() if k in options and _plain(options[k]) != _plain(v)}
    if said["name"].partition(".")[0] == name.partition(".")[0] and not wrong:
        return
    more = {**wrong, **({"aux_heads": True} if said["aux_heads"] else {})}
    arguments = ", ".join(f"{k}={v!r}" for k, v in more.items())
    call = ", ".join(filter(None, [repr(said["name"]), arguments, f"weights={str(path)!r}"]))
    raise ValueError(f"{path} is of another network than {name}: create_model({call})")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

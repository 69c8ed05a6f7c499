"""PyTorch's files as tensors by name; and writing them. No code in a file is run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.outputs import atomic_write
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weights_error import WeightsError, damaged, optional_library

ENDINGS = (".pth", ".pt", ".bin")
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # averages before the rest


def read(path: Path) -> Tensors:
    """Reads a state dict, on its own or inside a training checkpoint.

    Raises:
        WeightsError: if the file is damaged, holds other objects than tensors, or no dict.
    """
    torch = optional_library("torch", path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise damaged(path, "PyTorch file of plain tensors", error) from None
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds a {type(found).__name__}, not a dict of tensors")
    return {
        str(key): _to_numpy(tensor) for key, tensor in found.items() if hasattr(tensor, "detach")
    }


def _to_numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as `torch.save` does, whole or not at all."""
    torch = optional_library("torch", path)
    with atomic_write(path) as partial:
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, partial)

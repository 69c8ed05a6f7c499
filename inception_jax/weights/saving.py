"""Writes this library's weight files, and converts weights for the PyTorch twin."""

from __future__ import annotations

import dataclasses
import json
import os

import jax.numpy as jnp
import numpy as np

from inception_jax.nn.model import Model
from inception_jax.weights import safetensors_files, torch_names
from inception_jax.weights.facts import Facts, checksum
from inception_jax.weights.weight_file import METADATA_KEY, spec_of


def to_torch(model: Model) -> dict[str, np.ndarray]:
    """Returns the state dict of the model's twin in `reference_torch`, as NumPy arrays.

    bfloat16 arrays are returned as float32, because NumPy and `torch.from_numpy` have no bfloat16.
    `load_weights` restores exactly the same weights from the returned dict.
    """
    return {
        name: array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
        for name, array in twin_state(model).items()
    }


def twin_state(model: Model) -> dict[str, np.ndarray]:
    """Returns the dict of `to_torch`, but leaves bfloat16 arrays in bfloat16."""
    state = {}
    for path, leaf in torch_names.walk(torch_names.state_of(model)):
        name = torch_names.torch_name(path)
        state[name] = torch_names.to_torch_order(path, np.array(leaf))
        if path[-1] == "var":  # PyTorch's count of training steps; nothing here depends on it
            state[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


def save_weights(model: Model, path: str | os.PathLike[str]) -> None:
    """Writes a safetensors file for `load_weights`, `load` and the PyTorch twin.

    Names and axis orders are those of `to_torch`. The metadata contains the options of the network,
    the preprocessing, the class names, how the network was trained, and a checksum of all tensors.

    Raises:
        WeightsError: if the path does not end in `.safetensors`, no file can be written there, or
            the model was not built by `create_model`.
    """
    tensors = twin_state(model)
    said = {
        **dataclasses.asdict(spec_of(model)),
        "facts": dataclasses.asdict(Facts.of(model)),
        "checksum": checksum(tensors),
    }
    metadata = {"format": "pt", METADATA_KEY: json.dumps(said)}
    safetensors_files.write(path, tensors, metadata)

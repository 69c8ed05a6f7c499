"""Our own files, and the way to the PyTorch twin."""

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

    Numbers in bfloat16, which NumPy and so `torch.from_numpy` lack, are returned as float32. The
    inverse, bit for bit, is `load_weights(model, mapping)`.
    """
    return {
        name: array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
        for name, array in twin_state(model).items()
    }


def twin_state(model: Model) -> dict[str, np.ndarray]:
    """Returns what `to_torch` does, in the types of the model."""
    state = {}
    for path, leaf in torch_names.walk(torch_names.state_of(model)):
        name = torch_names.torch_name(path)
        state[name] = torch_names.to_torch_order(path, np.array(leaf))
        if path[-1] == "var":  # PyTorch's count of training steps; nothing here depends on it
            state[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


def save_weights(model: Model, path: str | os.PathLike[str]) -> None:
    """Writes a safetensors file that `load_weights` takes, and the twin too.

    Its names and axis orders are those of `to_torch`. Its metadata says how the network was built,
    how its images are prepared, what its classes are called and how it was trained, with a checksum
    over all tensors.

    Raises:
        WeightsError: if the path does not end in `.safetensors`, or the model was not built by
            `create_model`.
    """
    tensors = twin_state(model)
    said = {
        **dataclasses.asdict(spec_of(model)),
        "facts": dataclasses.asdict(Facts.of(model)),
        "checksum": checksum(tensors),
    }
    metadata = {"format": "pt", METADATA_KEY: json.dumps(said)}
    safetensors_files.write(path, tensors, metadata)

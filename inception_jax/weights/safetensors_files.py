"""Reads and writes safetensors files with their metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from inception_jax.outputs import atomic_write, check_target
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weights_error import WeightsError, damaged

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
}


def read(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Reads a file; returns its tensors by name, and its metadata.

    Raises:
        WeightsError: if the file is damaged, or a tensor has an unsupported dtype.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise damaged(path, "safetensors file", error) from None
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(f"{path}: tensor {name} has the type {entry['dtype']}")
        flat = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, metadata


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes tensors by name, and metadata, into a safetensors file. Writing is atomic.

    Raises:
        WeightsError: if the path does not end in `.safetensors`, or no file can be written there.
    """
    path = check_target(path, (".safetensors",), error=WeightsError, what="weights")
    with atomic_write(path) as partial:
        safetensors.numpy.save_file(dict(tensors), partial, dict(metadata))

"""Reading and writing weight files. Nothing here can run code that a file brings."""

from __future__ import annotations

import importlib
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from inception_jax.outputs import check_target, whole
from inception_jax.weights import caffe_files, keras_files, tensorflow_files
from inception_jax.weights.errors import WeightsError

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
}
_TORCH = (".pth", ".pt", ".bin")
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # averages before the rest


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a weight file, of the kind that its ending says.

    Returns:
        The tensors by name, and the file's own metadata, empty where the format has none.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it cannot be read.
    """
    path = Path(path)
    if not exists(path):
        raise FileNotFoundError(f"no weight file at {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _reader(path)(path), {}


def exists(path: Path) -> bool:
    """Says whether there is a weight file; a TensorFlow checkpoint is several of one beginning."""
    return path.is_file() or tensorflow_files.exists(path)


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".h5": keras_files.read_hdf5,
    ".hdf5": keras_files.read_hdf5,
    ".keras": keras_files.read_keras_archive,
    ".json": keras_files.read_tensorflow_js,
    ".pb": tensorflow_files.read_graph,
    ".tgz": tensorflow_files.read_archive,
    ".tar.gz": tensorflow_files.read_archive,
    ".caffemodel": caffe_files.read,
}


def _reader(path: Path) -> Callable[[Path], dict[str, np.ndarray]]:
    if path.suffix in _TORCH:
        return _read_torch
    for ending, reader in _READERS.items():
        if path.name.endswith(ending):
            return reader
    if tensorflow_files.is_checkpoint(path):
        if path.is_file() and zipfile.is_zipfile(path):  # PyTorch's users call files .ckpt too
            return _read_torch
        return tensorflow_files.read_checkpoint
    endings = ", ".join((".safetensors", *_TORCH, *_READERS))
    raise WeightsError(
        f"{path}: cannot read files ending in {path.suffix!r}; supported are {endings} and "
        "TensorFlow's .ckpt"
    )


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes a `.safetensors` file whole or not at all."""
    path = check_target(path, (".safetensors",), error=WeightsError, what="weights")
    with whole(path) as partial:
        safetensors.numpy.save_file(dict(tensors), partial, dict(metadata))


def write_torch(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as `torch.save` does, whole or not at all."""
    torch = _torch(path)
    with whole(path) as partial:
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, partial)


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from None
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(f"{path}: tensor {name} has the type {entry['dtype']}")
        flat = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, metadata


def _torch(path: Path) -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise WeightsError(
            f"{path}: PyTorch's files need PyTorch: pip install 'inception-jax[torch]'"
        ) from None


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path} is not a whole PyTorch file of plain tensors: {reason}"
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    return {
        str(key): _to_numpy(tensor) for key, tensor in content.items() if hasattr(tensor, "detach")
    }


def _to_numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()

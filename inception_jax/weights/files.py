"""Reading weight files: which reader takes which ending. None runs code that a file brings."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from inception_jax.weights import (
    caffe_files,
    keras_files,
    safetensors_files,
    tensorflow_files,
    torch_files,
)
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weights_error import WeightsError, optional_library

_READERS: dict[str, Callable[[Path], Tensors]] = {
    **dict.fromkeys(torch_files.ENDINGS, torch_files.read),
    ".h5": keras_files.read_hdf5,
    ".hdf5": keras_files.read_hdf5,
    ".keras": keras_files.read_keras_archive,
    ".json": keras_files.read_tensorflow_js,
    ".pb": tensorflow_files.read_graph,
    ".tgz": tensorflow_files.read_archive,
    ".tar.gz": tensorflow_files.read_archive,
    ".caffemodel": caffe_files.read,
}

_NEEDS = {
    "torch": torch_files.ENDINGS,
    "h5py": (".h5", ".hdf5", ".keras"),
    "tensorflow": (".pb", ".tgz", ".tar.gz"),
    "google.protobuf": (".caffemodel",),
}


def read(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, str]]:
    """Reads a weight file with the reader of its ending.

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
        return safetensors_files.read(path)
    return _reader(path)(path), {}


def check_readable(name: str) -> None:
    """Refuses a file that cannot be read for want of a package, before it is fetched.

    Raises:
        WeightsError: naming the package.
    """
    for library, endings in _NEEDS.items():
        if name.endswith(endings):
            optional_library(library, name)


def exists(path: Path) -> bool:
    """Says whether there is a weight file; a TensorFlow checkpoint is several files."""
    return path.is_file() or tensorflow_files.exists(path)


def _reader(path: Path) -> Callable[[Path], Tensors]:
    for ending, reader in _READERS.items():
        if path.name.endswith(ending):
            return reader
    if tensorflow_files.is_checkpoint(path):
        # PyTorch's users call files .ckpt too.
        is_torch = path.is_file() and zipfile.is_zipfile(path)
        return torch_files.read if is_torch else tensorflow_files.read_checkpoint
    raise WeightsError(
        f"{path}: cannot read files ending in {path.suffix!r}; supported are .safetensors, "
        f"{', '.join(_READERS)} and TensorFlow's .ckpt"
    )

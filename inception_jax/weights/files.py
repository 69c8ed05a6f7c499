"""Reads weight files of every format, recognised by their content.

No code in a file is executed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inception_jax.weights import (
    caffe_files,
    contents,
    keras_files,
    safetensors_files,
    tensorflow_files,
    torch_files,
)
from inception_jax.weights.contents import Kind
from inception_jax.weights.prefixes import listed
from inception_jax.weights.weights_error import WeightsError, optional_library

_READERS: dict[Kind, Callable[[Path], Any]] = {
    "PyTorch": torch_files.read_zip,
    "pickle": torch_files.read_pickle,
    "NumPy archive": torch_files.read_numpy_archive,
    "NumPy object": torch_files.read_numpy_object,
    "HDF5": keras_files.read_hdf5,
    "Keras archive": keras_files.read_keras_archive,
    "TensorFlow.js": keras_files.read_tensorflow_js,
    "TensorFlow checkpoint": tensorflow_files.read_checkpoint,
    "TensorFlow archive": tensorflow_files.read_archive,
    "TensorFlow graph": tensorflow_files.read_graph,
    "SavedModel": tensorflow_files.read_saved_model,
    "Caffe": caffe_files.read,
}
_PRETTY: dict[Kind, str] = {"PyTorch": "PyTorch (zip)", "pickle": "pickle (PyTorch before 1.6)"}
# Weight files in a folder, in order of preference.
_IN_FOLDER = (
    "weights.safetensors",
    "model.safetensors",
    "*.safetensors.index.json",
    "*.safetensors",
    "saved_model.pb",
    "pytorch_model.bin",
    "*.bin.index.json",
    "model.json",
    "*.index",
    "*.ckpt",
    "*.pth",
    "*model_states.pt",  # DeepSpeed's, next to the optimiser's
    "*.pt",
    "*.keras",
    "*.h5",
    "*.pth.tar",
)
_MOST_OF_A_NAME = 300

_NEEDS = {
    "h5py": (".h5", ".hdf5", ".keras"),
    "tensorflow": (".pb", ".tgz", ".tar.gz"),
    "google.protobuf": (".caffemodel",),
}


@dataclasses.dataclass(frozen=True)
class Read:
    """The content of a weight file.

    Attributes:
        content: tensors by name, or the object in a pickle, see `containers`.
        metadata: metadata of the file; empty if the format has none.
        format: description of the format.
    """

    content: Any
    metadata: Mapping[str, str]
    format: str


def read(path: str | os.PathLike[str]) -> Read:
    """Reads a weight file or folder with the reader that fits its content.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        WeightsError: if the file cannot be read. The message says what the file is, if known.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        if not tensorflow_files.exists(path):
            raise FileNotFoundError(f"no weight file at {path}")
        return Read(tensorflow_files.read_checkpoint(path), {}, "TensorFlow checkpoint")
    kind = contents.recognise(path)
    if kind == "safetensors":
        return Read(*safetensors_files.read(path), kind)
    if kind == "shards":
        return _shards(path)
    return Read(_READERS[kind](path), {}, _PRETTY.get(kind, kind))


def check_readable(name: str) -> None:
    """Checks that the package that reads a file is installed, before the file is downloaded.

    Args:
        name: name of the file, or its URL.

    Raises:
        WeightsError: if the package is missing. The message names the package.
    """
    for library, endings in _NEEDS.items():
        if name.endswith(endings):
            optional_library(library, name)


def exists(path: Path) -> bool:
    """Returns whether a path exists, or is the common prefix of a TensorFlow checkpoint's files.

    In `FILE#NAME`, only FILE has to exist.
    """
    return _is_there(split_part(path)[0])


def _is_there(path: Path) -> bool:
    return path.exists() or tensorflow_files.exists(path)


def split_part(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Splits `FILE#NAME` into the path of a file and the name of a network in it.

    Without `#NAME`, the name is empty. A `#` in the name of an existing file does not split it.
    """
    whole = Path(path)
    file, mark, part = str(path).rpartition("#")
    if not mark or _is_there(whole) or not _is_there(Path(file)):
        return whole, ""
    return Path(file), part


def _in_folder(folder: Path) -> Path:
    if (folder / "checkpoint").is_file():  # names TensorFlow's newest checkpoint
        return folder / "checkpoint"
    latest = folder / "latest"  # names DeepSpeed's newest checkpoint
    if latest.is_file() and latest.stat().st_size < _MOST_OF_A_NAME:
        name = latest.read_text(errors="replace").strip()
        if Path(name).name == name and (folder / name).is_dir():
            folder = folder / name
    for pattern in _IN_FOLDER:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise WeightsError(f"{folder} holds several weight files: {names}. Give one of them")
        if found:
            return found[0]
    inner = sorted({path.parent.name for path in folder.glob("*/*") if path.name in _IN_FOLDER})
    hint = f"one of its folders: {listed(inner)}" if inner else "the file"
    raise WeightsError(f"{folder} is a folder without a weight file: give {hint}")


def _shards(path: Path) -> Read:
    """Reads a network from several files, which the JSON index at `path` lists.

    Raises:
        WeightsError: if the index is invalid, or a file or tensor that it lists is missing.
    """
    try:
        files = json.loads(path.read_text())["weight_map"]
        names = sorted(set(files.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a whole list of weight files: {error!r}") from None
    if any(type(name) is not str or Path(name).name != name for name in names):
        raise WeightsError(f"{path} names files outside its folder")
    absent = [name for name in names if not (path.parent / name).is_file()]
    if absent:
        raise WeightsError(f"{path} needs {', '.join(absent)} beside it: download these too")
    tensors: dict[str, Any] = {}
    for name in names:
        part = read(path.parent / name).content
        tensors.update(part if isinstance(part, dict) else {})
    missing = [name for name in files if name not in tensors]
    if missing:
        raise WeightsError(f"{path}: its files lack tensors that it lists", missing=missing)
    return Read(tensors, {}, f"{len(names)} files that {path.name} lists")

"""Reads the weight files of Keras and TensorFlow.js, and writes those of Keras."""

from __future__ import annotations

import io
import json
import mmap
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from inception_jax.weights.keras_layouts import Stored
from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weights_error import WeightsError, damaged, optional_library

# Keras 1 named tensors by suffixes; its `running_std` holds the variance.
_KERAS_1 = {
    "W": "kernel",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}

# Other contents of training files.
_TRAINING = re.compile(r"(?:_?optimizer|optimizer_weights|_?metrics|_?loss_tracker|_trainer)\b")

_HEAP = re.compile(rb"GCOL\x01\0\0\0(?=(.{8}))", re.DOTALL)  # its size follows

# Errors that the libraries raise for damaged files, in addition to their own.
_DAMAGE = (OSError, RuntimeError, EOFError, KeyError, AttributeError, TypeError, ValueError)


def read_hdf5(path: Path) -> Tensors:
    """Reads the tensors of a `.h5` file.

    Names are `conv2d_7/kernel` in the legacy format, and `layers/conv2d_7/vars/0` in the format of
    Keras 3. If the backbone is a layer of another model, its name precedes the names of its layers.

    Raises:
        WeightsError: if the file is not a complete HDF5 file of a Keras model.
    """
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return _read_hdf5(file, content, str(path))


def read_keras_archive(path: Path) -> Tensors:
    """Reads the tensors of a `.keras` file, and ignores the rest of the file.

    Raises:
        WeightsError: if the file is not a complete archive of a Keras model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read("model.weights.h5")
    except (zipfile.BadZipFile, zlib.error, *_DAMAGE) as error:
        raise damaged(path, ".keras archive", error) from None
    return _read_hdf5(io.BytesIO(content), content, f"{path}/model.weights.h5")


def _read_hdf5(file: BinaryIO, content: bytes | mmap.mmap, what: str) -> Tensors:
    h5py = optional_library("h5py", what)
    try:
        _check_heaps(content)
        with h5py.File(file, "r") as root:
            group = root.get("model_weights", root)
            is_legacy = "layer_names" in group.attrs
            pairs = list(_legacy(h5py, group) if is_legacy else _indexed(h5py, root))
    except _DAMAGE as error:
        raise damaged(what, "HDF5 file of a Keras model", error) from None
    tensors = dict(pairs)
    if len(tensors) < len(pairs):
        raise WeightsError(f"{what} holds several layers of one name: more than one network")
    if not tensors:
        raise WeightsError(f"{what} holds no layers of a Keras model")
    return tensors


def write_hdf5(path: Path, layers: Sequence[Stored], legacy: bool) -> None:
    """Writes a file for `model.load_weights` of Keras 3.

    Args:
        path: path of the file.
        layers: layers in the order of `model.layers`.
        legacy: store the layers by name, like Keras 1 and 2; otherwise by index, like Keras 3.
    """
    h5py = optional_library("h5py", path)
    with h5py.File(path, "w") as root:
        if legacy:
            _write_legacy(root, layers)
            return
        for layer in layers:
            for i, array in enumerate(layer.tensors.values()):
                root[f"layers/{layer.automatic}/vars/{i}"] = array


def _write_legacy(root: Any, layers: Sequence[Stored]) -> None:
    root.attrs["layer_names"] = [layer.name.encode() for layer in layers]
    root.attrs["backend"] = b"jax"
    for layer in layers:
        group = root.create_group(layer.name)
        tensors = {f"{layer.name}/{leaf}:0": array for leaf, array in layer.tensors.items()}
        group.attrs["weight_names"] = [name.encode() for name in tensors]
        for name, array in tensors.items():
            group[name] = array


def _check_heaps(content: bytes | mmap.mmap) -> None:
    """Raises a ValueError for a damaged heap of strings, which would make libhdf5 loop forever.

    `content` is the whole HDF5 file. A heap is a collection of objects: index, count, size and
    content, each padded to 8 bytes. Object 0 is the free space, and its size includes its header.
    """
    for found in _HEAP.finditer(content):
        at, end = found.end() + 8, found.start() + int.from_bytes(found[1], "little")
        if end > len(content):
            raise ValueError("a heap reaches beyond its end")
        while at + 16 <= end:
            index = int.from_bytes(content[at : at + 2], "little")
            size = int.from_bytes(content[at + 8 : at + 16], "little")
            step = 16 + -(-size // 8) * 8 if index else size
            if not 0 < step <= end - at:
                raise ValueError("a heap with an object of an impossible size")
            at += step


def _legacy(h5py: ModuleType, group: Any) -> Iterator[tuple[str, np.ndarray]]:
    for layer in _strings(h5py, group.attrs, "layer_names"):
        names = _strings(h5py, group[layer].attrs, "weight_names")
        # TensorFlow 1 repeated the layer's name. A layer that is a model has many.
        alone = len({name.rpartition("/")[0] for name in names}) == 1
        for name in names:
            prefix, _, leaf = name.rpartition("/")
            owner = layer if alone else f"{layer}/{prefix.rpartition('/')[2]}"
            yield f"{owner}/{_leaf(leaf)}", np.asarray(group[layer][name])


def _strings(h5py: ModuleType, attributes: Any, name: str) -> list[str]:
    """Reads the attribute `name`, a list of strings, from the `attrs` of an h5py group.

    Any other type is rejected before reading, because libhdf5 may crash on a damaged attribute.

    Raises:
        ValueError: if the attribute is not a list of strings.
    """
    dtype = attributes.get_id(name).dtype
    # An empty list has the type of NumPy's empty array.
    if h5py.check_string_dtype(dtype) is None and dtype.kind != "f":
        raise ValueError(f"{name} is no list of names")
    return [_text(item) for item in attributes[name]]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _leaf(name: str) -> str:
    name = name.removesuffix(":0")
    old = re.search(rf"_({'|'.join(_KERAS_1)})(?:_\d+)?$", name)
    return _KERAS_1[old[1]] if old else name


def _indexed(h5py: ModuleType, root: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of a file in the format of Keras 3, without optimiser state.

    If the backbone is a layer of another model, names begin with the path of that layer:
    `layers/functional/layers/conv2d/vars/0`.
    """
    found: list[tuple[str, np.ndarray]] = []

    def visit(name: str, item: Any) -> None:
        is_kept = re.search(r"(?:^|/)vars/\d+$", name) and not _TRAINING.match(name)
        if is_kept and isinstance(item, h5py.Dataset):
            found.append((name, np.asarray(item)))

    root.visititems(visit)
    yield from found


def read_tensorflow_js(path: Path) -> Tensors:
    """Reads a TensorFlow.js layers model: `model.json`, and the weight files that it lists.

    Raises:
        WeightsError: if a file is missing, truncated or of the wrong kind.
    """
    try:
        manifest = json.loads(path.read_text())["weightsManifest"]
        return dict(pair for group in manifest for pair in _tensorflow_js_group(path, group))
    except _DAMAGE as error:
        raise damaged(path, "TensorFlow.js model", error) from None


def _tensorflow_js_group(path: Path, group: Any) -> Iterator[tuple[str, np.ndarray]]:
    shards = [str(name) for name in group["paths"]]
    if any(Path(name).name != name for name in shards):
        raise ValueError("a weight file outside the model's folder")
    content = b"".join((path.parent / name).read_bytes() for name in shards)
    offset = 0
    for entry in group["weights"]:
        quantized = entry.get("quantization", {})
        dtype = np.dtype(quantized.get("dtype", entry["dtype"])).newbyteorder("<")
        size = int(np.prod(entry["shape"], dtype=np.int64))
        tensor = np.frombuffer(content, dtype, size, offset).reshape(entry["shape"])
        offset += tensor.nbytes
        if "scale" in quantized:  # quantised affinely to 8 or 16 bits
            tensor = (tensor * quantized["scale"] + quantized["min"]).astype(np.float32)
        yield entry["name"], tensor
    if offset != len(content):
        raise ValueError(f"{len(content)} bytes of weights where the manifest has {offset}")

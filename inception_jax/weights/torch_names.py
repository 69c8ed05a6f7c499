"""The names and axis orders of the PyTorch twin.

A network and its twin have the same attribute names, so a parameter has the same path in both. Only
the last part of the path and the order of a kernel's axes differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

Path = tuple[Any, ...]
Tensors = dict[str, np.ndarray]

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "gamma": "gamma",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def state_of(model: nnx.Module) -> dict[str, Any]:
    """Returns the parameters and running statistics as nested dicts of arrays."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))


def walk(state: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Yields the path and the value of every leaf in nested dicts."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        yield tuple(entry.key for entry in path), leaf


def torch_name(path: Path) -> str:
    """Returns the twin's name for the parameter or statistic with this path."""
    *parents, leaf = map(str, path)
    return ".".join([*parents, _LEAVES[leaf]])


def torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a leaf's shape in the twin's axis order."""
    return to_torch_order(path, np.empty(shape, np.bool_)).shape


def torch_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of the twin, by the tensor's name."""
    return {torch_name(path): torch_shape(path, leaf.shape) for path, leaf in walk(state_of(model))}


def to_torch_order(path: Path, array: np.ndarray) -> np.ndarray:
    """Returns the array of the leaf at `path` in the twin's axis order. Only kernels change."""
    return np.ascontiguousarray(kernel_to_torch(array)) if path[-1] == "kernel" else array


def from_torch_order(path: Path, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch_order`."""
    return kernel_from_torch(array) if path[-1] == "kernel" else array


def kernel_to_torch(array: np.ndarray) -> np.ndarray:
    """Maps [h, w, in, out] to [out, in, h, w], and [in, out] to [out, in]."""
    return _permuted(array, (3, 2, 0, 1))


def kernel_from_torch(array: np.ndarray) -> np.ndarray:
    """The inverse of `kernel_to_torch`."""
    return _permuted(array, (2, 3, 1, 0))


def _permuted(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    if array.ndim == 2:
        return array.T
    return array.transpose(axes) if array.ndim == 4 else array


def depthwise_to_torch(array: np.ndarray) -> np.ndarray:
    """Maps TensorFlow's [h, w, c, m] to [c * m, 1, h, w]. Arrays of other ranks are unchanged."""
    if array.ndim != 4:
        return array
    h, w, c, m = array.shape
    return array.transpose(2, 3, 0, 1).reshape(c * m, 1, h, w)

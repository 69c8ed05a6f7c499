"""The leaf rules between a network here and its PyTorch twin.

Both have the same attribute names, so a parameter's path is the same in both; only the last name
and the order of a kernel's axes differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

TORCH_NAMES = {
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


def walk(state: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yields every leaf of nested dicts with its path."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        yield tuple(entry.key for entry in path), leaf


def torch_shape(path: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a leaf's shape in the twin's axis order."""
    return to_torch_order(path, np.empty(shape, np.bool_)).shape


def torch_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the twin's tensors by their names."""
    return {torch_name(path): torch_shape(path, leaf.shape) for path, leaf in walk(state_of(model))}


def torch_name(path: tuple[Any, ...]) -> str:
    """Returns the twin's name of a leaf."""
    *parents, leaf = map(str, path)
    return ".".join([*parents, TORCH_NAMES[leaf]])


def to_torch_order(path: tuple[Any, ...], array: np.ndarray) -> np.ndarray:
    """Kernels [h, w, in, out] -> [out, in, h, w] and [in, out] -> [out, in]; others as they are."""
    if path[-1] != "kernel":
        return array
    axes = (3, 2, 0, 1) if array.ndim == 4 else (1, 0)
    return np.ascontiguousarray(array.transpose(axes))


def from_torch_order(path: tuple[Any, ...], array: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch_order`."""
    if path[-1] != "kernel" or array.ndim not in (2, 4):
        return array
    return array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))

"""Checks weights: impossible values raise an error, unlikely values are returned as notes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from inception_jax.weights.prefixes import listed
from inception_jax.weights.weights_error import WeightsError


def check(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Checks the values of tensors.

    Args:
        tensors: tensors by their names in the PyTorch twin.

    Returns:
        A list with one note that names the constant kernels, and the BatchNorm variances and scales
        that are all zero, which may be intended; empty if there are none.

    Raises:
        WeightsError: if a tensor is not floating-point, or has NaN, infinity or a negative
            variance.
    """
    types = [f"{name} ({x.dtype})" for name, x in tensors.items() if not _is_float(x)]
    if types:
        raise WeightsError(
            f"not floating-point: {listed(types)}. Dequantise quantised weights before loading them"
        )
    infinite = [name for name, x in tensors.items() if not np.isfinite(_wide(x)).all()]
    if infinite:
        raise WeightsError(f"NaN or infinite numbers in {listed(infinite)}")
    negative = [n for n, x in tensors.items() if n.endswith("running_var") and (_wide(x) < 0).any()]
    if negative:
        raise WeightsError(f"negative variances in {listed(negative)}")
    same = [name for name, x in tensors.items() if _is_same(name, x)]
    return [f"all numbers are the same in {listed(same)}"] if same else []


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def _is_same(name: str, array: np.ndarray) -> bool:
    """Returns whether a kernel is constant, or a BatchNorm's variance or scale is all zero.

    `name` is the array's name in the PyTorch twin.
    """
    if array.size < 2:
        return False
    if array.ndim > 1:
        return bool((array == array.flat[0]).all())
    return name.endswith(("running_var", "bn.weight")) and not array.any()

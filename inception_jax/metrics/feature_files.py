"""Saves features to files and loads them, so that metrics can be computed later."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.metrics.origin import Origin
from inception_jax.notes import printable
from inception_jax.outputs import atomic_write, check_target
from inception_jax.version import __version__

FIELDS = ("pooled", "logits_unbiased", "spatial")
"""Kinds of features: the fields of `Features` that hold arrays."""


def save(path: str | os.PathLike[str], features: Mapping[str, Any], origin: Origin | None) -> None:
    """Writes features and their origin to an `.npz` file, one array for each kind of features.

    Args:
        path: path of the file, which must end in `.npz`.
        features: arrays [n, d] by kind of features, see `FIELDS`. Arrays that are None are left
            out.
        origin: how the features were computed; None if unknown.

    Raises:
        ValueError: if `path` does not end in `.npz`, or no file can be written there.
        OSError: if the disk is full; an existing file is then left unchanged.
    """
    path = check_target(path, (".npz",), what="features")
    arrays: dict[str, Any] = {
        name: np.asarray(array) for name, array in features.items() if array is not None
    }
    if origin is not None:
        arrays |= origin.as_arrays()
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays, version=np.asarray(__version__))


def load(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads a file that `save` wrote.

    Returns:
        A dict of the arrays by kind of features, with an entry `origin`: an `Origin`, or None if
        unknown. None in place of the dict if the file does not exist or holds no features.

    Raises:
        ValueError: if the file is damaged.
    """
    path = Path(path)
    if path.suffix != ".npz" or not path.is_file():
        return None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if "pooled" not in file.files:
                return None
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{printable(path)} is not a whole .npz file: {error}") from None
    found = {name: arrays[name] for name in FIELDS if name in arrays}
    if any(x.ndim != 2 or len(x) != len(found["pooled"]) for x in found.values()):
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in found.items())
        raise ValueError(f"{printable(path)}: features must be [n, d] of one n; got {shapes}")
    return {**found, "origin": Origin.of_arrays(arrays)}

"""Features in files, for metrics of later passes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.metrics.features import Features
from inception_jax.metrics.origin import Origin
from inception_jax.notes import printable
from inception_jax.outputs import atomic_write, check_target
from inception_jax.version import __version__

_FIELDS = ("pooled", "logits_unbiased", "spatial")


def save(features: Features, path: str | os.PathLike[str]) -> None:
    """Writes an `.npz` file: an array for each kind of features, and their origin.

    Raises:
        ValueError: for another ending, or if no file can be written there.
        OSError: if the disk is full; what was there before then stays.
    """
    path = check_target(path, (".npz",), what="features")
    arrays: dict[str, Any] = {
        name: np.asarray(array)
        for name in _FIELDS
        if (array := getattr(features, name)) is not None
    }
    if features.origin is not None:
        arrays |= features.origin.as_arrays()
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays, version=np.asarray(__version__))


def load(path: str | os.PathLike[str]) -> Features | None:
    """Reads what `save` wrote; None for an `.npz` file of something else, or none at all.

    Raises:
        ValueError: if it is damaged.
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
    found = {name: arrays[name] for name in _FIELDS if name in arrays}
    if any(x.ndim != 2 or len(x) != len(found["pooled"]) for x in found.values()):
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in found.items())
        raise ValueError(f"{printable(path)}: features are [n, d] of the same n; got {shapes}")
    return Features(**found, origin=Origin.of_arrays(arrays))

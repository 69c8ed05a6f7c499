"""Reads and writes files of statistics, in the layouts of this library and of other programs."""

from __future__ import annotations

import dataclasses
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.metrics.origin import Origin
from inception_jax.nearest import did_you_mean
from inception_jax.notes import printable
from inception_jax.outputs import atomic_write, check_target
from inception_jax.version import __version__

LAYOUTS = ("pytorch_fid", "clean", "adm", "jax")
"""Layouts of pytorch-fid, clean-fid, guided-diffusion, and JAX projects."""

Pair = tuple[np.ndarray, np.ndarray]
"""Mean [d] and covariance [d, d]."""

_NAMES = (("mu", "sigma"), ("ref_mu", "ref_sigma"))
_SPATIAL = ("mu_s", "sigma_s")


def save(
    path: str | os.PathLike[str],
    layout: str,
    pooled: Pair,
    spatial: Pair | None,
    count: int | None,
    origin: Origin | None,
) -> None:
    """Writes an `.npz` file of statistics in one of several layouts.

    | layout | arrays | read by |
    |---|---|---|
    | `pytorch_fid` | `mu`, `sigma` | pytorch-fid, TTUR, jax-fid |
    | `clean` | `mu`, `sigma`, compressed | clean-fid |
    | `adm` | `mu`, `sigma`, `mu_s`, `sigma_s` | guided-diffusion's evaluator |
    | `jax` | `ref_mu`, `ref_sigma` | projects that copied jax-fid |

    The file also holds the spatial statistics, the number of images and the origin, unless they are
    None. The version of this library is stored with the origin. Other programs ignore these arrays.

    Args:
        path: path of the file. It must end in `.npz`, by which the programs recognise such files.
        layout: name of the layout, one of `LAYOUTS`.
        pooled: mean and covariance of the pooled features.
        spatial: mean and covariance of the spatial features; None if there are none.
        count: number of images; None if unknown.
        origin: how the features were computed; None if unknown.

    Raises:
        ValueError: if `path` does not end in `.npz`, the layout is unknown, spatial statistics are
            missing for "adm", or no file can be written at `path`.
        OSError: if the disk is full; an existing file is then left unchanged.
    """
    path = check_target(path, (".npz",), what="statistics")
    check_layout(layout, spatial=spatial is not None)
    names = _NAMES[layout == "jax"]
    arrays: dict[str, Any] = dict(zip(names, pooled, strict=True))
    if spatial is not None:
        arrays |= dict(zip(_SPATIAL, spatial, strict=True))
    if count is not None:
        arrays["count"] = np.asarray(count)
    if origin is not None:
        arrays |= origin.as_arrays()
        arrays["version"] = np.asarray(__version__)
    write = np.savez_compressed if layout == "clean" else np.savez
    with atomic_write(path) as partial, partial.open("wb") as file:
        write(file, **arrays)


def check_layout(layout: str, *, spatial: bool) -> None:
    """Raises a ValueError for an unknown layout, or for "adm" without spatial statistics."""
    if layout not in LAYOUTS:
        hint = did_you_mean(layout, LAYOUTS)
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}{hint}")
    if layout == "adm" and not spatial:
        raise ValueError(
            "layout adm (guided-diffusion) needs spatial statistics, which preset='adm' (--preset "
            "adm) computes"
        )


def pooled(arrays: Mapping[str, np.ndarray]) -> Pair | None:
    """Returns the mean and covariance of the pooled features, for FID.

    Args:
        arrays: arrays of a file by name.

    Returns:
        The mean and covariance, or None if the file does not have both.
    """
    for mean, cov in _NAMES:
        if mean in arrays and cov in arrays:
            return arrays[mean], arrays[cov]
    return None


def spatial(arrays: Mapping[str, np.ndarray]) -> Pair | None:
    """Returns the mean and covariance of the spatial features, for sFID.

    Args:
        arrays: arrays of a file by name.

    Returns:
        The mean and covariance, or None if the file does not have both.
    """
    mean, cov = _SPATIAL
    return (arrays[mean], arrays[cov]) if arrays.keys() >= {mean, cov} else None


def nothing_there(arrays: Mapping[str, np.ndarray], path: Path) -> ValueError:
    """Returns the ValueError to raise for a file that holds no statistics."""
    images = ": give those images as an array" if "arr_0" in arrays else ""
    return ValueError(
        f"{path} holds {', '.join(arrays) or 'nothing'} instead of pytorch-fid's mu and "
        f"sigma{images}"
    )


def warn_of_unknown_origin(path: Path) -> None:
    """Warns that a file does not state how its features were computed."""
    warnings.warn(
        f"{printable(path)} does not say which program, resizing and weights it was made with: the "
        "distance is meaningful only if the other images use the same",
        stacklevel=2,
    )


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the `.npz` file at `path`, by name.

    Arrays that do not belong to the statistics, such as images, may be large. They are replaced by
    empty arrays.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    wanted = {*_SPATIAL, "count", *(f.name for f in dataclasses.fields(Origin))}
    wanted.update(name for names in _NAMES for name in names)
    try:
        # Opened here, because NumPy does not close a damaged file.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {k: file[k] if k in wanted else np.empty(0) for k in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} is not a whole .npz file of numbers: {error}") from None

"""Files of statistics, ours and those of other programs."""

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
from inception_jax.metrics.statistics import Statistics
from inception_jax.nearest import did_you_mean
from inception_jax.notes import printable
from inception_jax.outputs import atomic_write, check_target
from inception_jax.version import __version__

LAYOUTS = ("pytorch_fid", "clean", "adm", "jax")
"""Whose files: pytorch-fid's, clean-fid's, guided-diffusion's, and those of JAX projects."""

_NAMES = (("mu", "sigma"), ("ref_mu", "ref_sigma"))
_SPATIAL = ("mu_s", "sigma_s")


def save(statistics: Statistics, path: str | os.PathLike[str], layout: str) -> None:
    """Writes an `.npz` file that the layout's programs read.

    | layout | arrays | read by |
    |---|---|---|
    | `pytorch_fid` | `mu`, `sigma` | pytorch-fid, TTUR, jax-fid |
    | `clean` | `mu`, `sigma`, compressed | clean-fid |
    | `adm` | `mu`, `sigma`, `mu_s`, `sigma_s` | guided-diffusion's evaluator |
    | `jax` | `ref_mu`, `ref_sigma` | projects that copied jax-fid |

    Beside them are the spatial statistics where there are some, the number of images, the origin
    and this library's version. The other programs ignore these.

    Args:
        statistics: to write.
        path: ends in `.npz`, by which the programs know such files.
        layout: one of `LAYOUTS`.

    Raises:
        ValueError: for another ending or layout, for "adm" without spatial statistics, or if no
            file can be written there.
        OSError: if the disk is full; what was there before then stays.
    """
    path = check_target(path, (".npz",), what="statistics")
    check_layout(layout, spatial=statistics.spatial is not None)
    names = _NAMES[layout == "jax"]
    arrays: dict[str, Any] = dict(zip(names, (statistics.mean, statistics.cov), strict=True))
    if statistics.spatial is not None:
        spatial = statistics.spatial
        arrays |= dict(zip(_SPATIAL, (spatial.mean, spatial.cov), strict=True))
    if statistics.count is not None:
        arrays["count"] = np.asarray(statistics.count)
    if statistics.origin is not None:
        arrays |= statistics.origin.as_arrays()
        arrays["version"] = np.asarray(__version__)
    write = np.savez_compressed if layout == "clean" else np.savez
    with atomic_write(path) as partial, partial.open("wb") as file:
        write(file, **arrays)


def check_layout(layout: str, *, spatial: bool) -> None:
    """Raises a ValueError for a layout that is not there, or that needs spatial statistics."""
    if layout not in LAYOUTS:
        hint = did_you_mean(layout, LAYOUTS)
        raise ValueError(f"layout is one of {', '.join(LAYOUTS)}, not {layout!r}{hint}")
    if layout == "adm" and not spatial:
        raise ValueError(
            "guided-diffusion's files hold spatial statistics too, which preset='adm' "
            "(--preset adm) computes"
        )


def load(path: str | os.PathLike[str]) -> Statistics:
    """Reads an `.npz` file of any layout of `save`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    arrays = arrays_of(path)
    if (found := statistics_of(arrays, path)) is not None:
        return found
    images = ": give those images as an array" if "arr_0" in arrays else ""
    raise ValueError(
        f"{path} holds {', '.join(arrays) or 'nothing'} instead of pytorch-fid's mu and "
        f"sigma{images}"
    )


def statistics_of(arrays: Mapping[str, np.ndarray], path: Path) -> Statistics | None:
    """Returns the statistics among the arrays of a file; None if there are none.

    Raises:
        ValueError: if they do not fit.
    """
    for mean, cov in _NAMES:
        if mean in arrays and cov in arrays:
            break
    else:
        return None
    try:
        count = int(arrays["count"]) if "count" in arrays else None
        spatial = None
        if arrays.keys() >= set(_SPATIAL):
            spatial = Statistics(arrays[_SPATIAL[0]], arrays[_SPATIAL[1]], count)
        origin = Origin.of_arrays(arrays)
        return Statistics(arrays[mean], arrays[cov], count, origin, spatial, printable(path))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def warn_of_unknown_origin(path: Path, statistics: Statistics) -> None:
    """Says that a file of another program does not tell how it was made."""
    if statistics.origin is None:
        warnings.warn(
            f"{printable(path)} does not say which program, resizing and weights it is of: the "
            "distance means something only if they are those of the other images",
            stacklevel=2,
        )


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays that count; of others only the names, as they may be large.

    Raises:
        ValueError: if the file is damaged.
    """
    wanted = {*_SPATIAL, "count", *(f.name for f in dataclasses.fields(Origin))}
    wanted.update(name for names in _NAMES for name in names)
    try:
        # Opened here: of a damaged file numpy would leave it open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {k: file[k] if k in wanted else np.empty(0) for k in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} is not a whole .npz file of numbers: {error}") from None

"""Mean and covariance of features: at once, batch by batch, and in pytorch-fid's files."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.outputs import atomic_write, check_target

_ROWS = 1024  # features gathered before they are multiplied: a product of few rows takes as long


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of the features of images.

    Attributes:
        mean: float64 [d].
        cov: float64 [d, d], the unbiased estimate (divided by n - 1), as `np.cov` gives it.
        count: of images; None where a file does not say.

    Raises:
        ValueError: if the shapes do not fit, a number is not finite, or `cov` is not symmetric.
    """

    mean: np.ndarray
    cov: np.ndarray
    count: int | None = None

    def __post_init__(self):
        for name in ("mean", "cov"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        if self.mean.ndim != 1 or self.cov.shape != self.mean.shape * 2:
            raise ValueError(
                f"a mean [d] and a covariance [d, d] are needed; got {list(self.mean.shape)} and "
                f"{list(self.cov.shape)}"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.cov).all()):
            raise ValueError("there are NaN or infinite numbers in the mean or the covariance")
        if np.abs(self.cov - self.cov.T).max(initial=0) > 1e-4 * np.abs(self.cov).max(initial=0):
            raise ValueError("the covariance is not symmetric")

    @classmethod
    def of(cls, features: np.ndarray) -> Statistics:
        """Returns the statistics of features [n, d], summed in float64.

        Raises:
            ValueError: for fewer than two, or a number that is not finite.
        """
        running = RunningStatistics()
        running.update(features)
        return running.result()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an `.npz` file that pytorch-fid reads: `mu`, `sigma`, and beside them `count`.

        Raises:
            ValueError: if the path does not end in `.npz`, by which pytorch-fid knows such files,
                or no file can be written there.
            OSError: if the disk is full; what was there before then stays.
        """
        path = check_target(path, (".npz",), what="statistics")
        arrays: dict[str, Any] = {"mu": self.mean, "sigma": self.cov}
        if self.count is not None:
            arrays["count"] = np.asarray(self.count)
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Reads an `.npz` file of ours or of pytorch-fid: `mu` [d] and `sigma` [d, d].

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no file at {path}")
        arrays = _read(path)
        if not {"mu", "sigma"} <= arrays.keys():
            images = ": give those images as an array" if "arr_0" in arrays else ""
            raise ValueError(
                f"{path} holds {', '.join(arrays) or 'nothing'} instead of pytorch-fid's mu and "
                f"sigma{images}"
            )
        try:
            count = int(arrays["count"]) if "count" in arrays else None
            return cls(arrays["mu"], arrays["sigma"], count)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays that count; of others only the names, as they may be large."""
    try:
        # Opened here: of a damaged file numpy would leave it open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            wanted = ("mu", "sigma", "count")
            return {k: file[k] if k in wanted else np.empty(0) for k in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} is not a whole .npz file of numbers: {error}") from None


class RunningStatistics:
    """Statistics of any number of features in the memory of one covariance.

    Batches are merged by the formulas of Chan, Golub and LeVeque (1979), which add sums of squares
    about each one's own mean; so nothing is lost where the mean is large beside the deviation.
    """

    def __init__(self):
        self._count = 0
        self._mean: np.ndarray | float = 0.0
        self._scatter: np.ndarray | float = 0.0  # sum of the outer products about the mean
        self._rows: list[np.ndarray] = []

    def update(self, features: np.ndarray) -> None:
        """Takes in features [n, d] of any float type.

        Raises:
            ValueError: for another shape, another d than before, or a number that is not finite.
        """
        if features.ndim != 2 or (self._rows and features.shape[1] != self._rows[0].shape[1]):
            raise ValueError(f"features [n, d] of one d are needed; got {list(features.shape)}")
        if not np.isfinite(features).all():
            raise ValueError("there are NaN or infinite numbers in the features: check the weights")
        self._rows.append(features)
        if sum(map(len, self._rows)) >= _ROWS:
            self._merge()

    def result(self) -> Statistics:
        """Returns the statistics of all so far.

        Raises:
            ValueError: for fewer than two.
        """
        self._merge()
        if self._count < 2:
            raise ValueError(f"a covariance needs two images at least; got {self._count}")
        return Statistics(
            np.array(self._mean), np.asarray(self._scatter) / (self._count - 1), self._count
        )

    def _merge(self) -> None:
        rows = np.concatenate(self._rows).astype(np.float64) if self._rows else np.empty((0, 0))
        if not len(rows):
            return
        self._rows = []
        mean = rows.mean(0)
        rows -= mean
        total = self._count + len(rows)
        apart = mean - self._mean
        self._scatter = self._scatter + rows.T @ rows
        self._scatter += np.outer(apart, apart) * (self._count * len(rows) / total)
        self._mean = self._mean + apart * (len(rows) / total)
        self._count = total

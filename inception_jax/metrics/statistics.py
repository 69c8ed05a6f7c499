"""Mean and covariance of features, computed at once or in batches."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from inception_jax.metrics import statistics_files
from inception_jax.metrics.origin import Origin
from inception_jax.notes import printable

_ROWS = 1024  # images merged at once, because a product of fewer rows takes as much time


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of the features of images.

    Attributes:
        mean: mean of the features, float64 [d].
        cov: covariance of the features, float64 [d, d]: the unbiased estimate (divided by n - 1),
            as in `np.cov`.
        count: number of images; None if a file does not state it.
        origin: how the features were computed; None if unknown.
        spatial: statistics of the spatial features, for sFID; None if there are none.
        name: name of the file that the statistics were read from, for messages.

    Raises:
        ValueError: if the shapes do not match, a number is not finite, or `cov` is not symmetric.
    """

    mean: np.ndarray
    cov: np.ndarray
    count: int | None = None
    origin: Origin | None = None
    spatial: Statistics | None = None
    name: str | None = None

    def __post_init__(self):
        for name in ("mean", "cov"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        if self.mean.ndim != 1 or self.cov.shape != self.mean.shape * 2:
            raise ValueError(
                f"the mean must be [d] and the covariance [d, d]; got {list(self.mean.shape)} and "
                f"{list(self.cov.shape)}"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.cov).all()):
            raise ValueError("the mean or the covariance has NaN or infinite numbers")
        if np.abs(self.cov - self.cov.T).max(initial=0) > 1e-4 * np.abs(self.cov).max(initial=0):
            raise ValueError("the covariance is not symmetric")

    @classmethod
    def of(
        cls, features: np.ndarray, *, mean_dtype: Literal["float64", "float32"] = "float64"
    ) -> Statistics:
        """Computes mean and covariance of features [n, d]; `mean_dtype`: see `RunningStatistics`.

        Raises:
            ValueError: for fewer than two images, or a number that is not finite.
        """
        running = RunningStatistics(mean_dtype=mean_dtype)
        running.update(features)
        return running.result()

    def save(self, path: str | os.PathLike[str], *, layout: str = "pytorch_fid") -> None:
        """Writes an `.npz` file; see `statistics_files.save`."""
        pooled, spatial = (self.mean, self.cov), self.spatial
        pair = None if spatial is None else (spatial.mean, spatial.cov)
        statistics_files.save(path, layout, pooled, pair, self.count, self.origin)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Reads an `.npz` file in any layout of `statistics_files.save`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, or holds no valid statistics.
        """
        path = Path(path)
        arrays = statistics_files.arrays_of(path)
        if (found := cls.among(arrays, path)) is not None:
            return found
        raise statistics_files.nothing_there(arrays, path)

    @classmethod
    def among(cls, arrays: Mapping[str, np.ndarray], path: Path) -> Statistics | None:
        """Returns the statistics that the arrays of a file hold; None if they hold none.

        Raises:
            ValueError: if the statistics are invalid, see `Statistics`; the message names `path`.
        """
        if (pooled := statistics_files.pooled(arrays)) is None:
            return None
        try:
            count = int(arrays["count"]) if "count" in arrays else None
            pair = statistics_files.spatial(arrays)
            spatial = None if pair is None else cls(*pair, count)
            origin = Origin.of_arrays(arrays)
            return cls(*pooled, count, origin, spatial, printable(path))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None


class RunningStatistics:
    """Computes the mean and covariance of features batch by batch, for any number of images.

    It holds one mean, one covariance and about a thousand rows of features in memory. Batches are
    merged by the formulas of Chan, Golub and LeVeque (1979). These centre each batch at the batch's
    mean, so no digits are lost if the mean is large compared with the standard deviation.

    Args:
        mean_dtype: dtype in which the mean is summed. "float64" is exact. "float32" adds one image
            after another, as several programs do with `np.mean` of float32 features. The covariance
            uses the exact mean in both cases, as in `np.cov`.
    """

    def __init__(self, *, mean_dtype: Literal["float64", "float32"] = "float64"):
        self._count = 0
        self._width: int | None = None
        self._mean: np.ndarray | float = 0.0
        self._scatter: np.ndarray | float = 0.0  # sum of the outer products of x - mean
        self._rows: list[np.ndarray] = []
        self._narrow = mean_dtype == "float32"
        self._sum: np.ndarray | None = None  # float32 sum of the features

    def update(self, features: np.ndarray) -> None:
        """Adds features [n, d] of any float dtype.

        Raises:
            ValueError: if the shape is not [n, d], d differs from that of earlier features, or a
                number is not finite.
        """
        if features.ndim != 2 or features.shape[1] != (self._width or features.shape[1]):
            raise ValueError(f"features must be [n, d] of one d; got {list(features.shape)}")
        if not np.isfinite(features).all():
            raise ValueError("the features have NaN or infinite numbers: check the weights")
        self._width = features.shape[1]
        self._rows.append(features)
        if sum(map(len, self._rows)) >= _ROWS:
            self._merge()

    def result(self) -> Statistics:
        """Returns the mean and covariance of all features so far.

        Raises:
            ValueError: for fewer than two images.
        """
        self._merge()
        if self._count < 2:
            raise ValueError(f"a covariance needs at least two images; got {self._count}")
        mean = np.array(self._mean)
        if self._sum is not None:
            mean = self._sum / np.float32(self._count)
        return Statistics(mean, np.asarray(self._scatter) / (self._count - 1), self._count)

    def _merge(self) -> None:
        rows = np.concatenate(self._rows) if self._rows else np.empty((0, 0))
        if not len(rows):
            return
        self._rows = []
        if self._narrow:
            before = () if self._sum is None else (self._sum[None],)
            self._sum = np.add.reduce(np.concatenate([*before, rows.astype(np.float32)]))
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        rows -= mean
        total = self._count + len(rows)
        apart = mean - self._mean
        self._scatter = self._scatter + rows.T @ rows
        self._scatter += np.outer(apart, apart) * (self._count * len(rows) / total)
        self._mean = self._mean + apart * (len(rows) / total)
        self._count = total

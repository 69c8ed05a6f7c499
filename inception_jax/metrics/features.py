"""Features of images, from which several metrics can be computed in one pass."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from inception_jax.metrics import feature_files
from inception_jax.metrics.origin import Origin
from inception_jax.metrics.presets import DEFAULT, Preset, preset_of
from inception_jax.metrics.statistics import RunningStatistics, Statistics


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Features of images: NumPy arrays, or JAX arrays on the devices.

    Attributes:
        pooled: features of each image, float32 [n, d]. For FID's network, a stage's feature map
            averaged over its pixels.
        logits_unbiased: logits without the classifier's bias, float32 [n, 1008]: `pooled` times the
            classifier's kernel. The Inception Score needs them. None unless `pooled` is from the
            last stage of FID's network.
        spatial: spatial features, float32 [n, 2023]: the first seven channels of a 17x17 feature
            map, flattened row by row. sFID needs them. None unless the preset computes sFID.
        origin: how the features were computed; None if unknown.
    """

    pooled: np.ndarray
    logits_unbiased: np.ndarray | None = None
    spatial: np.ndarray | None = None
    origin: Origin | None = dataclasses.field(default=None, metadata={"static": True})

    def __len__(self) -> int:
        return len(self.pooled)

    @functools.cached_property
    def statistics(self) -> Statistics:
        """Statistics of the pooled features, and of the spatial features if there are any.

        Raises:
            ValueError: for fewer than two images.
        """
        preset = preset_of(self.origin.preset if self.origin else DEFAULT)
        return statistics_of([self], preset, self.origin)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an `.npz` file that metrics accept instead of images; see `feature_files.save`."""
        features = {name: getattr(self, name) for name in feature_files.FIELDS}
        feature_files.save(path, features, self.origin)

    @classmethod
    def saved_in(cls, path: str | os.PathLike[str]) -> Features | None:
        """Reads a file that `save` wrote; None if the file does not exist or has no features.

        Raises:
            ValueError: if the file is damaged.
        """
        found = feature_files.load(path)
        return None if found is None else cls(**found)

    def part(self, start: int, stop: int) -> Features:
        """Returns the features of images `start` (inclusive) to `stop` (exclusive)."""
        cut = [x if x is None else x[start:stop] for x in self._arrays()]
        assert cut[0] is not None
        return Features(cut[0], *cut[1:], origin=self.origin)

    def _arrays(self) -> tuple[np.ndarray | None, ...]:
        return self.pooled, self.logits_unbiased, self.spatial


def joined(parts: Sequence[Features], origin: Origin | None) -> Features:
    """Concatenates the features of several batches in order, and sets their origin."""
    columns = zip(*(part._arrays() for part in parts), strict=True)
    arrays = [None if x[0] is None else np.concatenate(x) for x in columns]  # type: ignore[arg-type]
    assert arrays[0] is not None
    return Features(arrays[0], *arrays[1:], origin=origin)


def statistics_of(parts: Iterable[Features], preset: Preset, origin: Origin | None) -> Statistics:
    """Returns the mean and covariance of features that come in batches.

    The batches are read one after another, so not all of them have to be in memory.

    Args:
        parts: the batches.
        preset: preset, whose `mean_dtype` is used.
        origin: how the features were computed; None if unknown.

    Raises:
        ValueError: for fewer than two images.
    """
    pooled, spatial = (RunningStatistics(mean_dtype=preset.mean_dtype) for _ in range(2))
    has_spatial = False
    for part in parts:
        pooled.update(part.pooled)
        if part.spatial is not None:
            has_spatial = True
            spatial.update(part.spatial)
    return dataclasses.replace(
        pooled.result(), origin=origin, spatial=spatial.result() if has_spatial else None
    )


def whole_batches(parts: Iterable[Features], size: int, name: str) -> Iterator[Features]:
    """Regroups features into batches that hold a multiple of `size` images, and yields them.

    The images left over at the end are dropped, with a warning that uses `name`, the name of
    the images. If there are fewer than `size` images in all, none is dropped.
    """
    held: list[Features] = []
    passed = False
    for part in parts:
        held.append(part)
        count = sum(map(len, held))
        if count >= size:
            together = joined(held, None)
            whole = count - count % size
            yield together.part(0, whole)
            passed = True
            held = [together.part(whole, count)] if whole < count else []
    if held and not passed:
        yield joined(held, None)
    elif held:
        warnings.warn(
            f"{name}: the last {sum(map(len, held))} images are left out, because the program "
            f"drops a last batch of fewer than {size}",
            stacklevel=2,
        )

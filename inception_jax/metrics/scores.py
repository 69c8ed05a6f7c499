"""Metrics of images, each in one call."""

from __future__ import annotations

import warnings
from typing import Any, TypedDict, Unpack

from inception_jax.metrics.extractor import Extractor, Features
from inception_jax.metrics.frechet import frechet_distance
from inception_jax.metrics.image_loader import Images
from inception_jax.metrics.inception_score import score_of_logits
from inception_jax.metrics.kernel import kernel_distance
from inception_jax.metrics.manifolds import manifold_precision_recall
from inception_jax.metrics.metric_values import MeanStd, PrecisionRecall
from inception_jax.metrics.resizing import Resize
from inception_jax.metrics.statistics import Statistics
from inception_jax.nn.model import Model
from inception_jax.weights.weight_file import Source


class Options(TypedDict, total=False):
    """How images become features; see `Extractor`."""

    weights: Source | Model
    preset: str
    dims: int
    resize: Resize | None
    batch_size: int
    recursive: bool | None
    skip_unreadable: bool
    progress: bool
    workers: int | None
    parts: int | None


def fid(a: Any, b: Any, *, extractor: Extractor | None = None, **options: Unpack[Options]) -> float:
    """Returns the Fréchet Inception Distance of two sets of images.

    With pytorch-fid's weights it is pytorch-fid's number. Of fewer images than features the
    estimate is far too large, for any implementation; a warning says so.

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500.

    Args:
        a: a folder, read as pytorch-fid does; an `.npz` file of statistics, ours or pytorch-fid's;
            an array uint8 [n, h, w, 3]; an iterable of images (paths, Pillow images, arrays uint8
            [h, w, 3] or [n, h, w, 3]); `Statistics`; or `Features`.
        b: likewise.
        extractor: in place of options, for repeated use: it is compiled once.
        **options: of `Extractor`: weights, preset, dims, resize, batch_size, recursive,
            skip_unreadable, progress, workers, parts.

    Raises:
        ValueError: for a set of fewer than two images, images or files that cannot be read, or
            statistics of another number of features. All that can be known before is said before
            the first image is computed.
        FileNotFoundError: if there is no such folder or file.
        WeightsError: see `load_weights`.
    """
    extractor = _extractor(extractor, options)
    opened = open_all(extractor, a, b)
    return fid_of_statistics(*map(extractor.statistics, opened))


def fid_of_statistics(a: Statistics, b: Statistics) -> float:
    """`frechet_distance`, with a warning if there are fewer images than features."""
    few = [s.count for s in (a, b) if s.count is not None and s.count <= len(s.mean)]
    if few:
        warnings.warn(
            f"{' and '.join(map(str, few))} images for {len(a.mean)} features: FID is far too "
            "large for so few. Compare only FIDs of as many images, or use KID, which is unbiased",
            stacklevel=3,
        )
    return frechet_distance(a, b)


def kid(
    a: Any,
    b: Any,
    *,
    subsets: int | None = None,
    subset_size: int | None = None,
    seed: int | None = None,
    extractor: Extractor | None = None,
    **options: Unpack[Options],
) -> MeanStd:
    """Returns the Kernel Inception Distance of two sets of images; see `kernel_distance`.

    Args:
        a: images as `fid` takes, or `Features`; not statistics.
        b: likewise.
        subsets: how many subsets; None here and below: the preset's.
        subset_size: images in each.
        seed: of their draws.
        extractor: see `fid`.
        **options: see `fid`.

    Raises:
        ValueError: see `fid`; for statistics.
    """
    extractor = _extractor(extractor, options)
    preset = extractor.preset
    ours, theirs = _features(extractor, a, b)
    return kernel_distance(
        ours.pooled,
        theirs.pooled,
        subsets=preset.kid_subsets if subsets is None else subsets,
        subset_size=preset.kid_subset_size if subset_size is None else subset_size,
        seed=preset.seed if seed is None else seed,
    )


def inception_score(
    images: Any,
    *,
    splits: int = 10,
    extractor: Extractor | None = None,
    **options: Unpack[Options],
) -> MeanStd:
    """Returns the Inception Score of images; see `score_of_logits`.

    Args:
        images: as `fid` takes, or `Features`; not statistics.
        splits: of the images, in their order.
        extractor: see `fid`.
        **options: see `fid`.

    Raises:
        ValueError: see `fid`; for statistics, fewer images than splits, or features of a stage
            before the last, which have no logits.
    """
    extractor = _extractor(extractor, options)
    if not isinstance(images, Features) and extractor.dims != 2048:
        raise ValueError(_NO_LOGITS)
    (features,) = _features(extractor, images, least=splits)
    return score_of_features(features, splits=splits)


_NO_LOGITS = "the Inception Score needs logits, which only the last stage has: dims=2048"


def score_of_features(features: Features, *, splits: int = 10) -> MeanStd:
    """`score_of_logits` of features that have some."""
    if features.logits_unbiased is None:
        raise ValueError(_NO_LOGITS)
    return score_of_logits(features.logits_unbiased, splits=splits)


def precision_recall(
    generated: Any,
    real: Any,
    *,
    neighbours: int | None = None,
    extractor: Extractor | None = None,
    **options: Unpack[Options],
) -> PrecisionRecall:
    """Returns improved precision and recall; see `manifold_precision_recall`.

    Args:
        generated: images as `fid` takes, or `Features`; not statistics.
        real: likewise.
        neighbours: k, which sets how large the balls around features are; None: the preset's.
        extractor: see `fid`.
        **options: see `fid`.

    Raises:
        ValueError: see `fid`; for statistics, or sets that are too small.
    """
    extractor = _extractor(extractor, options)
    neighbours = extractor.preset.pr_neighbours if neighbours is None else neighbours
    ours, theirs = _features(extractor, generated, real, least=neighbours + 1)
    return manifold_precision_recall(ours.pooled, theirs.pooled, neighbours=neighbours)


def open_all(
    extractor: Extractor, *sources: Any, per_image: bool = False, least: int = 2
) -> list[Images | Statistics | Features]:
    """Opens sources, and loads the network if one needs it, before any image is computed.

    Args:
        extractor: loaded if there are images.
        *sources: what `fid` takes.
        per_image: whether the features of each image are needed, which statistics do not have.
        least: how many images are needed.

    Raises:
        ValueError: see `fid`.
    """
    opened = [extractor.open(source) for source in sources]
    if per_image and any(isinstance(source, Statistics) for source in opened):
        raise ValueError(
            "of statistics only FID can be computed; KID, the Inception Score, precision and "
            "recall need the images"
        )
    for source in opened:
        check_count(source, least)
    if any(isinstance(source, Images) for source in opened):
        extractor.load()
        for source in opened:
            _check_width(source, extractor.width)
    return opened


def check_count(
    source: Images | Statistics | Features, least: int, metric: str = "the metric"
) -> None:
    """Raises a ValueError for images that are known to be fewer than are needed."""
    if isinstance(source, Images) and source.count is not None and source.count < least:
        raise ValueError(
            f"{source.name} has {source.count} images; {metric} needs {least} at least"
        )


def _check_width(source: Images | Statistics | Features, width: int) -> None:
    if isinstance(source, Images):
        return
    found = len(source.mean) if isinstance(source, Statistics) else source.pooled.shape[1]
    if found != width:
        raise ValueError(f"{found} features are given, and {width} would be computed: set dims")


def _features(extractor: Extractor, *sources: Any, least: int = 2) -> list[Features]:
    opened = open_all(extractor, *sources, per_image=True, least=least)
    return [extractor.features(source) for source in opened]


def _extractor(extractor: Extractor | None, options: Options) -> Extractor:
    if extractor is None:
        return Extractor(**options)
    if options:
        raise TypeError(f"give {', '.join(options)} to the extractor")
    return extractor

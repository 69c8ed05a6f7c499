"""Computes metrics from images, with one function for each metric."""

from __future__ import annotations

import warnings
from typing import Any, TypedDict, Unpack

from inception_jax.metrics.extractor import Extractor
from inception_jax.metrics.features import Features
from inception_jax.metrics.frechet import frechet_distance
from inception_jax.metrics.half_manifolds import half_precision_recall
from inception_jax.metrics.image_loader import Images
from inception_jax.metrics.inception_score import score_of_logits
from inception_jax.metrics.kernel import kernel_distance
from inception_jax.metrics.manifolds import manifold_precision_recall
from inception_jax.metrics.metric_values import MeanStd, PrecisionRecall
from inception_jax.metrics.origin import Origin, check_comparable
from inception_jax.metrics.presets import DEFAULT, Preset, preset_of
from inception_jax.metrics.resizing import Resize
from inception_jax.metrics.state import State, statistics_of
from inception_jax.metrics.statistics import Statistics
from inception_jax.nn.model import Model
from inception_jax.weights.weight_file import Source


class Options(TypedDict, total=False):
    """Options that metrics pass to `Extractor`, which computes the features.

    Attributes:
        weights: weights of the network, or the network itself.
        preset: name of the preset, the program to imitate.
        dims: number of features.
        resize: name of a resizing rule; None: the preset's rule.
        batch_size: number of images in a batch.
        recursive: whether to read subfolders too; None: as the preset's program does.
        skip_unreadable: whether to skip files that are not whole images.
        progress: whether to show progress bars.
        workers: number of threads that read images; None: one for each core.
        parts: number of parts of a batch that run in parallel; None: see `jit_predict`.
    """

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

    The result is the number that the preset's program computes. The default is pytorch-fid with its
    weights. With fewer images than features, FID is far too large in any implementation, and a
    warning says so.

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500.

    Args:
        a: one set of images: a folder, read as the preset's program does; an `.npz` file of
            statistics or of images in its array `arr_0`; an `.npy` file of images; an array uint8
            [n, h, w, 3]; an iterable of images (paths, Pillow images, arrays uint8 [h, w, 3] or
            [n, h, w, 3]); `Statistics`; or `Features`.
        b: the other set of images, like `a`.
        extractor: an `Extractor` to use; no `options` may then be given. Reuse it for several
            calls, because its network is compiled only once.
        **options: options of `Extractor`: weights, preset, dims, resize, batch_size, recursive,
            skip_unreadable, progress, workers, parts.

    Raises:
        ValueError: for a set of fewer than two images, images or files that cannot be read, or
            statistics that differ from the other set in preset, resizing, weights or number of
            features. If possible, it is raised before the first image is computed.
        FileNotFoundError: if there is no such folder or file.
        WeightsError: see `load_weights`.
    """
    extractor = _extractor(extractor, options)
    opened = open_all(extractor, a, b)
    return fid_of_statistics(*map(extractor.statistics, opened), preset=extractor.preset)


def sfid(
    a: Any, b: Any, *, extractor: Extractor | None = None, **options: Unpack[Options]
) -> float:
    """Returns sFID, the Fréchet distance of spatial features, as guided-diffusion computes it.

    Source: Nash et al. 2021, https://arxiv.org/abs/2103.03841.

    Args:
        a: one set of images: any input of `fid`. If it is statistics, they must include spatial
            statistics.
        b: the other set of images, like `a`.
        extractor: see `fid`.
        **options: see `fid`; the default preset is "adm".

    Raises:
        ValueError: see `fid`; also if a set has no spatial statistics.
    """
    if extractor is None:
        options.setdefault("preset", "adm")
    extractor = _extractor(extractor, options)
    opened = open_all(extractor, a, b)
    return sfid_of_statistics(*map(extractor.statistics, opened), preset=extractor.preset)


def fid_of_statistics(a: Statistics, b: Statistics, *, preset: Preset | None = None) -> float:
    """Returns the FID of two sets from their statistics; see `frechet_distance`.

    The `offset` for `frechet_distance` comes from the preset named in the statistics. Warns if a
    set does not have more images than features.

    Args:
        a: statistics of one set, with d features.
        b: statistics of the other set, with d features.
        preset: preset for statistics that do not state one; None: the default preset.

    Raises:
        ValueError: if the origins or the numbers of features differ.
    """
    check_comparable(a.origin, b.origin, (a.name, b.name))
    few = [s.count for s in (a, b) if s.count is not None and s.count <= len(s.mean)]
    if few:
        warnings.warn(
            f"{' and '.join(map(str, few))} images for {len(a.mean)} features: FID is far too "
            "large with so few. Compare only FIDs of equally many images, or use KID, which is "
            "unbiased",
            stacklevel=3,
        )
    return frechet_distance(a, b, offset=_preset_of(preset, a.origin, b.origin).offset)


def sfid_of_statistics(a: Statistics, b: Statistics, *, preset: Preset | None = None) -> float:
    """Returns the sFID of two sets from their spatial statistics; see `fid_of_statistics`.

    Raises:
        ValueError: see `fid_of_statistics`; also if a set has no spatial statistics.
    """
    check_comparable(a.origin, b.origin, (a.name, b.name))
    if a.spatial is None or b.spatial is None:
        raise ValueError(
            "sFID needs spatial statistics (mu_s, sigma_s), which preset='adm' (--preset adm) "
            "computes"
        )
    offset = _preset_of(preset, a.origin, b.origin).offset
    return frechet_distance(a.spatial, b.spatial, offset=offset)


def _preset_of(given: Preset | None, *origins: Origin | None) -> Preset:
    """Returns the preset of the first known origin, else the given preset, else the default."""
    for origin in origins:
        if origin is not None:
            return preset_of(origin.preset)
    return given or preset_of(DEFAULT)


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

    The result is a `MeanStd`: mean and standard deviation over the pairs of subsets.

    Args:
        a: generated images: any input of `fid`, except statistics.
        b: real images: any input of `fid`, except statistics.
        subsets: number of subsets; None: the preset's number.
        subset_size: number of images in each subset; None: the preset's number.
        seed: seed of the draws; None: the preset's seed.
        extractor: see `fid`.
        **options: see `fid`.

    Raises:
        ValueError: see `fid`; also if an input is statistics.
    """
    extractor = _extractor(extractor, options)
    ours, theirs = _features(extractor, a, b)
    return kid_of_features(
        ours,
        theirs,
        preset=extractor.preset,
        subsets=subsets,
        subset_size=subset_size,
        seed=seed,
    )


def kid_of_features(
    a: Features,
    b: Features,
    *,
    preset: Preset | None = None,
    subsets: int | None = None,
    subset_size: int | None = None,
    seed: int | None = None,
) -> MeanStd:
    """Returns the KID of two sets from their features, a `MeanStd`; see `kernel_distance`.

    `a` are the generated images; for the other options, see `kid`. Options that are None are taken
    from the preset. For `preset`, see `fid_of_statistics`.
    """
    check_comparable(a.origin, b.origin)
    preset = _preset_of(preset, a.origin, b.origin)
    return kernel_distance(
        a.pooled,
        b.pooled,
        subsets=preset.kid_subsets if subsets is None else subsets,
        subset_size=preset.kid_subset_size if subset_size is None else subset_size,
        seed=preset.seed if seed is None else seed,
        draws=preset.kid_draws,
        dtype=preset.kid_dtype,
    )


def inception_score(
    images: Any,
    *,
    splits: int | None = None,
    extractor: Extractor | None = None,
    **options: Unpack[Options],
) -> MeanStd:
    """Returns the Inception Score of images: a `MeanStd`, over splits of the images.

    The images are shuffled if the preset's program does so, then cut into groups of consecutive
    images, the splits; see `score_of_logits`.

    Args:
        images: set of images: any input of `fid`, except statistics.
        splits: number of splits; None: the preset's number.
        extractor: see `fid`.
        **options: see `fid`.

    Raises:
        ValueError: see `fid`; also for statistics, fewer images than splits, or features without
            logits (features of a stage before the last).
    """
    extractor = _extractor(extractor, options)
    if not isinstance(images, Features) and extractor.dims != 2048:
        raise ValueError(_NO_LOGITS)
    least = score_splits(extractor.preset) if splits is None else splits
    (features,) = _features(extractor, images, least=least)
    return score_of_features(features, preset=extractor.preset, splits=splits)


_NO_LOGITS = "the Inception Score needs logits, which only the last stage has: use dims=2048"


def score_splits(preset: Preset) -> int:
    """Returns the smallest number of images for which a preset can compute the Inception Score."""
    return 2 if preset.is_split_size else preset.is_splits


def score_of_features(
    features: Features, *, preset: Preset | None = None, splits: int | None = None
) -> MeanStd:
    """Returns the Inception Score of a set from its features, a `MeanStd`; see `inception_score`.

    Options that are None are taken from the preset. For `preset`, see `fid_of_statistics`.
    """
    if features.logits_unbiased is None:
        raise ValueError(_NO_LOGITS)
    preset = _preset_of(preset, features.origin)
    return score_of_logits(
        features.logits_unbiased,
        splits=preset.is_splits if splits is None else splits,
        split_size=preset.is_split_size if splits is None else None,
        shuffle=preset.is_shuffle,
        seed=preset.seed,
        ddof=preset.is_ddof,
    )


def precision_recall(
    generated: Any,
    real: Any,
    *,
    neighbours: int | None = None,
    extractor: Extractor | None = None,
    **options: Unpack[Options],
) -> PrecisionRecall:
    """Returns improved precision and recall, a `PrecisionRecall`; see `manifold_precision_recall`.

    Args:
        generated: generated images: any input of `fid`, except statistics.
        real: real images: any input of `fid`, except statistics.
        neighbours: k, the neighbour that sets the radius of a ball; None: the preset's number.
        extractor: see `fid`.
        **options: see `fid`.

    Raises:
        ValueError: see `fid`; also if an input is statistics, or a set is too small.
    """
    extractor = _extractor(extractor, options)
    neighbours = extractor.preset.pr_neighbours if neighbours is None else neighbours
    ours, theirs = _features(extractor, generated, real, least=neighbours + 1)
    return precision_recall_of_features(
        ours, theirs, preset=extractor.preset, neighbours=neighbours
    )


def precision_recall_of_features(
    generated: Features,
    real: Features,
    *,
    preset: Preset | None = None,
    neighbours: int | None = None,
) -> PrecisionRecall:
    """Returns the precision and recall of two sets from their features, a `PrecisionRecall`.

    `neighbours` is k, see `precision_recall`. Options that are None are taken from the preset. For
    `preset`, see `fid_of_statistics`.
    """
    check_comparable(generated.origin, real.origin)
    preset = _preset_of(preset, generated.origin, real.origin)
    compute = half_precision_recall if preset.pr_dtype == "float16" else manifold_precision_recall
    neighbours = preset.pr_neighbours if neighbours is None else neighbours
    return compute(generated.pooled, real.pooled, neighbours=neighbours)


def open_all(
    extractor: Extractor, *sources: Any, per_image: bool = False, least: int = 2
) -> list[Images | Statistics | Features]:
    """Opens and checks sources of images before any image is computed.

    Args:
        extractor: extractor that opens the sources. Its network is loaded if a source holds images.
        *sources: any inputs of `fid`.
        per_image: whether the features of each image are needed. Statistics are then rejected.
        least: smallest number of images that each source must have.

    Returns:
        The result of `extractor.open` for each source.

    Raises:
        ValueError: see `fid`.
    """
    opened = [extractor.open(source) for source in sources]
    if per_image and any(isinstance(source, Statistics) for source in opened):
        raise ValueError(
            "statistics are enough for FID only; KID, the Inception Score, precision and recall "
            "need the images"
        )
    for source in opened:
        check_count(source, least)
    if any(isinstance(source, Images) for source in opened):
        extractor.load()
        for source in opened:
            known = source.statistics if isinstance(source, Images) else source
            name = known.name if isinstance(known, Statistics) else None
            origin = None if known is None else known.origin
            check_comparable(origin, extractor.origin, (name, "the other input"))
            _check_width(source, extractor.width)
    return opened


def check_count(
    source: Images | Statistics | Features, least: int, metric: str = "the metric"
) -> None:
    """Raises a ValueError if a source of images is known to have fewer than `least` images.

    Statistics and features are not checked. `metric` is the name of the metric, for the message.
    """
    if isinstance(source, Images) and source.count is not None and source.count < least:
        raise ValueError(
            f"{source.name} has {source.count} images; {metric} needs at least {least}"
        )


def _check_width(source: Images | Statistics | Features, width: int) -> None:
    if isinstance(source, Images):
        return
    found = len(source.mean) if isinstance(source, Statistics) else source.pooled.shape[1]
    if found != width:
        raise ValueError(f"one input has {found} features, the other would have {width}: set dims")


def _features(extractor: Extractor, *sources: Any, least: int = 2) -> list[Features]:
    opened = open_all(extractor, *sources, per_image=True, least=least)
    return [extractor.features(source) for source in opened]


def _extractor(extractor: Extractor | None, options: Options) -> Extractor:
    if extractor is None:
        return Extractor(**options)
    if options:
        raise TypeError(f"give {', '.join(options)} to the Extractor instead")
    return extractor


def result(state: State, real: Any) -> float:
    """Returns the Fréchet Inception Distance between the images of a state and real images.

    Args:
        state: state of the generated images.
        real: another state, `Statistics`, the path of an `.npz` file of statistics, or `Features`.

    Raises:
        ValueError: see `statistics_of`; also if the origins or the numbers of features differ.
    """
    return fid_of_statistics(statistics_of(state), _statistics_of(real))


def _statistics_of(real: Any) -> Statistics:
    if isinstance(real, Statistics):
        return real
    if isinstance(real, State):
        return statistics_of(real)
    if isinstance(real, Features):
        return real.statistics
    return Statistics.load(real)

"""Computes several metrics in one pass over the images, and formats them as text and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inception_jax.metrics.extractor import Extractor
from inception_jax.metrics.features import Features
from inception_jax.metrics.image_loader import Images
from inception_jax.metrics.intervals import bootstrap_fid, fid_infinity
from inception_jax.metrics.manifolds import manifold_density_coverage
from inception_jax.metrics.metric_values import Interval, MeanStd
from inception_jax.metrics.origin import Origin, check_comparable
from inception_jax.metrics.presets import Preset
from inception_jax.metrics.scores import (
    check_count,
    fid_of_statistics,
    kid_of_features,
    open_all,
    precision_recall_of_features,
    score_of_features,
    score_splits,
    sfid_of_statistics,
)
from inception_jax.metrics.statistics import Statistics
from inception_jax.version import __version__

METRICS = ("fid", "sfid", "kid", "is", "pr", "dc", "fid_inf")
_PER_IMAGE = {"kid", "is", "pr", "dc", "fid_inf"}  # need the features of each image
_OF_GENERATED = {"is", "fid_inf"}  # need those of generated images only
_DENSITY_NEIGHBOURS = 5
Opened = Images | Statistics | Features
Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """The statistics and features of one set of images.

    Attributes:
        name: name of the source of the images.
        statistics: mean and covariance of the features of all images.
        features: features of each image; None if no metric needs them.
    """

    name: str
    statistics: Statistics
    features: Features | None = None

    @property
    def count(self) -> int | None:
        """Number of images; None if a file of statistics does not state it."""
        return self.statistics.count


def possible(names: Sequence[str], a: Opened, b: Opened | None, preset: Preset) -> tuple[str, ...]:
    """Returns the names of the metrics that can be computed from two sets.

    Args:
        names: names of metrics, out of `METRICS`.
        a: the generated images.
        b: the real images; None if there are none.
        preset: the preset in use.
    """
    return tuple(name for name in names if _problem(name, a, b, preset) is None)


def check(names: Sequence[str], a: Opened, b: Opened | None, preset: Preset) -> None:
    """Raises a ValueError if one of the metrics cannot be computed; see `possible`."""
    for name in names:
        if (problem := _problem(name, a, b, preset)) is not None:
            raise ValueError(problem)
    if "is" in names:
        check_count(a, score_splits(preset), "the Inception Score, a mean over splits,")
    if "pr" in names:
        for source in (a, b):
            assert source is not None
            check_count(source, preset.pr_neighbours + 1, "precision and recall")
    if "dc" in names and b is not None:
        check_count(b, _DENSITY_NEIGHBOURS + 1, "density and coverage")


def _problem(name: str, a: Opened, b: Opened | None, preset: Preset) -> str | None:
    needed = [a] if name == "is" else [a, b]
    if None in needed:
        return "a second input is needed: the real images to compare with"
    each = [a] if name in _OF_GENERATED else needed
    if name in _PER_IMAGE and any(isinstance(source, Statistics) for source in each):
        return (
            "statistics are enough for FID and sFID only; KID, the Inception Score, precision, "
            "recall, density, coverage and intervals need the images"
        )
    if name == "sfid" and "sfid" not in preset.metrics:
        return "sFID needs spatial features, which only --preset adm (preset='adm') computes"
    if name == "sfid" and any(_without_spatial(source) for source in needed):
        return "sFID needs files of statistics with mu_s and sigma_s"
    return None


def _without_spatial(source: Opened | None) -> bool:
    known = source and _known(source)
    return isinstance(known, Statistics) and known.spatial is None


def gathered(extractor: Extractor, opened: Opened, name: str, *, per_image: bool) -> ImageSet:
    """Computes mean and covariance of one set's features, and keeps the features if needed.

    Args:
        extractor: extractor of the features.
        opened: set of images that `extractor.open` returned.
        name: name of the source.
        per_image: whether the features of each image are needed.

    Returns:
        An `ImageSet`.
    """
    if isinstance(opened, Statistics) or not per_image:
        return ImageSet(name, extractor.statistics(opened))
    features = extractor.features(opened)
    stated = opened.statistics if isinstance(opened, Images) else None
    return ImageSet(name, stated or features.statistics, features)


def sets_of(
    extractor: Extractor,
    names: Sequence[str],
    generated: Mapping[str, Opened],
    real: tuple[str, Opened] | None,
    *,
    bootstrap: int = 0,
) -> Iterator[tuple[ImageSet, ImageSet | None]]:
    """Checks all sets, then computes the statistics and features that the metrics need.

    The statistics and features of the real images are computed only once.

    Args:
        extractor: extractor of the features.
        names: names of metrics, out of `METRICS`.
        generated: one or more sets of generated images, by name.
        real: name and set of the real images; None if there are none. Each generated set is
            compared with the real images.
        bootstrap: number of resamples for the confidence interval of FID; 0: no interval.

    Yields:
        A pair for each generated set: its `ImageSet`, and that of the real images or None.

    Raises:
        ValueError: see `check` and `scores.open_all`.
    """
    needed = [*names, "fid_inf"] if bootstrap else names
    for source in generated.values():
        check(needed, source, real and real[1], extractor.preset)
    sources = [*generated.items(), *([] if real is None else [real])]
    _check_origins(extractor.preset, sources)
    open_all(extractor, *(source for _, source in sources))
    theirs = None
    if real is not None:
        per_image = bool((_PER_IMAGE - _OF_GENERATED) & set(names))
        theirs = gathered(extractor, real[1], real[0], per_image=per_image)
    for name, source in generated.items():
        per_image = bool(_PER_IMAGE & set(needed))
        yield gathered(extractor, source, name, per_image=per_image), theirs


def _check_origins(preset: Preset, sources: Sequence[tuple[str, Opened]]) -> None:
    """Raises a ValueError if files of statistics or features state different origins.

    It runs before any image is read. If all sets are such files, it also checks that their preset
    is the requested one. If there are images too, `open_all` compares the files with the extractor.
    """
    known = [(name, _known(source)) for name, source in sources]
    origins = [(name, files.origin) for name, files in known if files and files.origin]
    for name, origin in origins:
        check_comparable(origin, origins[-1][1], (name, origins[-1][0]))
    if origins and len(origins) == len(known) and origins[0][1].preset != preset.name:
        found = origins[0][1].preset
        raise ValueError(
            f"the files were made with preset {found}, not {preset.name}: use --preset {found}"
        )


def _known(source: Opened) -> Statistics | Features | None:
    return source.statistics if isinstance(source, Images) else source


def measured(
    names: Sequence[str], a: ImageSet, b: ImageSet | None, preset: Preset, *, bootstrap: int = 0
) -> Values:
    """Computes metrics of a set of generated images.

    Args:
        names: names of metrics, out of `METRICS`.
        a: the generated images.
        b: the real images; None if no metric needs them.
        preset: preset for statistics that do not state one.
        bootstrap: number of resamples; see `sets_of`.

    Returns:
        A dict of values by name. "kid" and "is" are each a `MeanStd`, "fid_inf" and "fid_interval"
        each an `Interval`; all other values are numbers. The metric "pr" gives "precision",
        "recall" and "f_score". The metric "dc" gives "density" and "coverage".
    """
    values: Values = {}
    for name in names:
        if name == "is":
            assert a.features is not None
            values["is"] = score_of_features(a.features, preset=preset)
            continue
        assert b is not None
        if name == "fid":
            values["fid"] = fid_of_statistics(a.statistics, b.statistics, preset=preset)
            if bootstrap:
                assert a.features is not None
                found = bootstrap_fid(a.features, b.statistics, resamples=bootstrap)
                values["fid_interval"] = found
        elif name == "sfid":
            values["sfid"] = sfid_of_statistics(a.statistics, b.statistics, preset=preset)
        elif name == "fid_inf":
            assert a.features is not None
            values["fid_inf"] = fid_infinity(a.features, b.statistics)
        else:
            assert a.features is not None
            assert b.features is not None
            values |= _of_both(name, a.features, b.features, preset)
    return values


def _of_both(name: str, a: Features, b: Features, preset: Preset) -> Values:
    if name == "kid":
        return {"kid": kid_of_features(a, b, preset=preset)}
    if name == "dc":
        check_comparable(a.origin, b.origin)
        return manifold_density_coverage(
            a.pooled, b.pooled, neighbours=_DENSITY_NEIGHBOURS
        )._asdict()
    found = precision_recall_of_features(a, b, preset=preset)
    return {**found._asdict(), "f_score": found.f_score}


_SHOWN = {
    "fid": "FID",
    "fid_interval": "FID, 95 %",
    "fid_inf": "FID infinity",
    "sfid": "sFID",
    "kid": "KID",
    "is": "IS",
    "f_score": "F-score",
}


def lines(values: Values) -> list[str]:
    """Returns a list of lines of text, one for each metric, from the result of `measured`."""
    return [f"{_SHOWN.get(name, name)}  {_text(name, value)}" for name, value in values.items()]


def table(rows: Sequence[tuple[str, Values]]) -> list[str]:
    """Returns the lines of a table: a header, and one line with the metrics of each set.

    Args:
        rows: name and metrics of each set; all sets must have the same metrics.
    """
    head = ["", *(_SHOWN.get(name, name) for name in rows[0][1])]
    body = [[name, *(_text(key, value) for key, value in found.items())] for name, found in rows]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *body)
    ]


def _text(name: str, value: Any) -> str:
    if isinstance(value, Interval) and name == "fid_interval":
        return f"{value.low:.6g} to {value.high:.6g}"
    if isinstance(value, Interval):
        return f"{value.value:.6g} ± {value.std:.3g}"
    if not isinstance(value, MeanStd):
        return f"{value:.6g}"
    return f"{value.mean:.6g}" + ("" if math.isnan(value.std) else f" ± {value.std:.3g}")


def origin_of(a: ImageSet, b: ImageSet | None) -> Origin | None:
    """Returns the origin of the features; None if the files do not state it."""
    return a.statistics.origin or (b and b.statistics.origin) or None


def record(extractor: Extractor, values: Values, a: ImageSet, b: ImageSet | None) -> dict[str, Any]:
    """Returns the metrics, and how they were computed, as a dict for JSON.

    NaN, such as the standard deviation of a single value, becomes None (null in JSON).
    """
    origin = origin_of(a, b)
    unknown = {field.name: None for field in dataclasses.fields(Origin)}
    return {
        "metrics": {name: _plain(value) for name, value in values.items()},
        **(dataclasses.asdict(origin) if origin else {**unknown, "preset": extractor.preset.name}),
        "program": f"{extractor.preset.program} {extractor.preset.version}",
        "inception_jax": __version__,
        "a": {"source": a.name, "images": a.count},
        "b": None if b is None else {"source": b.name, "images": b.count},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, MeanStd | Interval):
        return {name: _plain(number) for name, number in value._asdict().items()}
    return None if math.isnan(value) else float(value)

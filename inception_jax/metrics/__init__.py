"""Computes metrics of generated images, by default with Inception V3: FID, sFID, KID, etc."""

from inception_jax.metrics.extractor import Extractor
from inception_jax.metrics.feature_networks import OwnFeatures
from inception_jax.metrics.features import Features
from inception_jax.metrics.frechet import frechet_distance
from inception_jax.metrics.image_loader import UnreadableError
from inception_jax.metrics.inception_score import score_of_logits
from inception_jax.metrics.intervals import bootstrap_fid, fid_infinity
from inception_jax.metrics.kernel import kernel_distance
from inception_jax.metrics.manifolds import manifold_density_coverage, manifold_precision_recall
from inception_jax.metrics.metric_values import DensityCoverage, Interval, MeanStd, PrecisionRecall
from inception_jax.metrics.origin import Origin
from inception_jax.metrics.presets import PRESETS, Preset
from inception_jax.metrics.scores import fid, inception_score, kid, precision_recall, result, sfid
from inception_jax.metrics.sources import Generated, Loader, Records
from inception_jax.metrics.state import (
    State,
    across_processes,
    features_of,
    init,
    merge,
    merge_over,
    statistics_of,
)
from inception_jax.metrics.statistics import RunningStatistics, Statistics

__all__ = [
    "PRESETS",
    "DensityCoverage",
    "Extractor",
    "Features",
    "Generated",
    "Interval",
    "Loader",
    "MeanStd",
    "Origin",
    "OwnFeatures",
    "PrecisionRecall",
    "Preset",
    "Records",
    "RunningStatistics",
    "State",
    "Statistics",
    "UnreadableError",
    "across_processes",
    "bootstrap_fid",
    "features_of",
    "fid",
    "fid_infinity",
    "frechet_distance",
    "inception_score",
    "init",
    "kernel_distance",
    "kid",
    "manifold_density_coverage",
    "manifold_precision_recall",
    "merge",
    "merge_over",
    "precision_recall",
    "result",
    "score_of_logits",
    "sfid",
    "statistics_of",
]

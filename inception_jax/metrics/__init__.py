"""Metrics of generated images by Inception V3: FID, sFID, KID, Inception Score, and others."""

from inception_jax.metrics.extractor import Extractor
from inception_jax.metrics.features import Features
from inception_jax.metrics.frechet import frechet_distance
from inception_jax.metrics.image_loader import UnreadableError
from inception_jax.metrics.inception_score import score_of_logits
from inception_jax.metrics.kernel import kernel_distance
from inception_jax.metrics.manifolds import manifold_precision_recall
from inception_jax.metrics.metric_values import MeanStd, PrecisionRecall
from inception_jax.metrics.origin import Origin
from inception_jax.metrics.presets import PRESETS, Preset
from inception_jax.metrics.scores import fid, inception_score, kid, precision_recall, sfid
from inception_jax.metrics.statistics import RunningStatistics, Statistics

__all__ = [
    "PRESETS",
    "Extractor",
    "Features",
    "MeanStd",
    "Origin",
    "PrecisionRecall",
    "Preset",
    "RunningStatistics",
    "Statistics",
    "UnreadableError",
    "fid",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "kid",
    "manifold_precision_recall",
    "precision_recall",
    "score_of_logits",
    "sfid",
]

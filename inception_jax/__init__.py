"""The Inception family in JAX, with the numbers of its sources."""

from inception_jax import models
from inception_jax.analysis import explain
from inception_jax.analysis.features import FeatureInfo, feature_extractor, feature_info
from inception_jax.analysis.stage_table import Summary, summary
from inception_jax.create import create_model, load
from inception_jax.images import BadImageError
from inception_jax.inference.classification import classify
from inception_jax.inference.compiled import jit_predict
from inception_jax.inference.folding import fold
from inception_jax.nn.rewrites import REWRITES, rewritten
from inception_jax.preprocessing import preprocess
from inception_jax.registry import (
    ModelInfo,
    UnknownModelError,
    list_models,
    model_info,
)
from inception_jax.serving import ExportError, export
from inception_jax.weights import WeightsError, load_weights, save_weights, to_torch

__all__ = [
    "REWRITES",
    "BadImageError",
    "ExportError",
    "FeatureInfo",
    "ModelInfo",
    "Summary",
    "UnknownModelError",
    "WeightsError",
    "classify",
    "create_model",
    "explain",
    "export",
    "feature_extractor",
    "feature_info",
    "fold",
    "jit_predict",
    "list_models",
    "load",
    "load_weights",
    "model_info",
    "models",
    "preprocess",
    "rewritten",
    "save_weights",
    "summary",
    "to_torch",
]

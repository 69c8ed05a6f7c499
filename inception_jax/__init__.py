"""The Inception family in JAX, with the numbers of its sources."""

from inception_jax import models
from inception_jax.preprocessing import preprocess
from inception_jax.registry import (
    ModelInfo,
    UnknownModelError,
    create_model,
    list_models,
    model_info,
)
from inception_jax.weights import WeightsError, load_weights, save_weights, to_torch

__all__ = [
    "ModelInfo",
    "UnknownModelError",
    "WeightsError",
    "create_model",
    "list_models",
    "load_weights",
    "model_info",
    "models",
    "preprocess",
    "save_weights",
    "to_torch",
]

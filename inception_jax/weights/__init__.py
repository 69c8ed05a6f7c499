"""Weights in and out."""

from inception_jax.weights.errors import WeightsError
from inception_jax.weights.loading import load_weights
from inception_jax.weights.saving import save_weights, to_torch

__all__ = ["WeightsError", "load_weights", "save_weights", "to_torch"]

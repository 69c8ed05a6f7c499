"""Loads, saves and converts the weights of networks."""

from inception_jax.weights.loading import load_weights
from inception_jax.weights.saving import save_weights, to_torch
from inception_jax.weights.weights_error import WeightsError

__all__ = ["WeightsError", "load_weights", "save_weights", "to_torch"]

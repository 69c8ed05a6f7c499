"""Analyses a network: its stages and their shapes, multiply-accumulates, and heat maps."""

from inception_jax.analysis import explain

__all__ = ["explain"]

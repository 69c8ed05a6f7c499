"""Drawings of networks and their modules, made from the program that they run."""

from inception_jax.drawing.figures import draw, modules

__all__ = ["draw", "modules"]

"""Drawings of networks and their modules, made from traced programs."""

from inception_jax.drawing.figures import draw, modules

__all__ = ["draw", "modules"]

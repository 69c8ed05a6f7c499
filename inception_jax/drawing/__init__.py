"""Draws networks and their modules as SVG, from traced programs."""

from inception_jax.drawing.figures import draw, modules

__all__ = ["draw", "modules"]

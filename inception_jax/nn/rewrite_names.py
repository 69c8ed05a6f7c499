"""The names of the rewritings, see `rewrites.py`, for those who do not wait for jax."""

from __future__ import annotations

from typing import Literal, get_args

Rewrite = Literal["siblings", "pools", "statistics", "depthwise", "repeats", "gradients"]
REWRITES: tuple[Rewrite, ...] = get_args(Rewrite)
DEFAULT_REWRITES: tuple[Rewrite, ...] = ("siblings", "pools", "statistics", "depthwise", "repeats")

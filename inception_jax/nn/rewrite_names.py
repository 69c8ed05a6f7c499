"""The names of the rewrites that the module `rewrites` explains.

This module does not import jax, so that a command-line program can list the names quickly.
"""

from __future__ import annotations

from typing import Literal, get_args

Rewrite = Literal["siblings", "pools", "statistics", "depthwise", "repeats", "gradients"]
REWRITES: tuple[Rewrite, ...] = get_args(Rewrite)
DEFAULT_REWRITES: tuple[Rewrite, ...] = ("siblings", "pools", "statistics", "depthwise", "repeats")

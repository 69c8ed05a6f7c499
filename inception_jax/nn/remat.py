"""Training with less memory: the backward pass recomputes what is cheap instead of storing it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

_SAVED = "convolution"
_LEAST_WORK = 64

_naming = jax.make_user_context(False)


def rematerialised(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with a gradient that stores only the outputs of convolutions.

    The backward pass recomputes what lies between them: normalisation, ReLU, pools, concatenation,
    depthwise convolutions. It also recomputes a convolution of the image, whose few channels cost
    less than its large output. Sums of residual blocks are stored where a network marks them, as
    Inception-ResNets and Xception do. The numbers are the same.

    Args:
        function: of arrays, or trees of them.
    """

    def named(*args: Any) -> Any:
        with _naming(True):
            return function(*args)

    policy = jax.checkpoint_policies.save_only_these_names(_SAVED)
    return jax.checkpoint(named, policy=policy)


def save_for_backward(x: jax.Array, *, work: float = math.inf) -> jax.Array:
    """Marks what `rematerialised` stores, if it is worth storing.

    The sums of a row of residual blocks are marked too. Otherwise the last block's gradient would
    have all of them recomputed early and kept in memory until needed.

    Args:
        x: a convolution's output, or such a sum.
        work: multiplications behind each of its numbers.
    """
    return checkpoint_name(x, _SAVED) if _naming.value and work >= _LEAST_WORK else x

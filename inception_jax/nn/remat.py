"""Training with less memory: what is cheap is computed again instead of kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

_KEPT = "convolution"
_LEAST_WORK = 64

_naming = jax.make_user_context(False)


def rematerialised(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with a gradient for which only the outputs of convolutions are kept.

    What lies between them (normalisation, ReLU, pools, concatenation, depthwise convolutions) is
    computed again on the way back, and so is a convolution of the image, whose few channels cost
    less than its large output. Sums of residual blocks are kept where a network marks them, as
    Inception-ResNets and Xception do. The numbers are the same.

    Args:
        function: of arrays, or trees of them.
    """

    def named(*args: Any) -> Any:
        with _naming(True):
            return function(*args)

    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    return jax.checkpoint(named, policy=policy)


def kept(x: jax.Array, *, work: float = math.inf) -> jax.Array:
    """Marks what `rematerialised` keeps, if it is worth keeping.

    A sum that the next of many residual blocks adds to is marked too: the last block's gradient
    would have all of them computed again at once, and held until theirs come.

    Args:
        x: a convolution's output, or such a sum.
        work: multiplications behind each of its numbers.
    """
    return checkpoint_name(x, _KEPT) if _naming.value and work >= _LEAST_WORK else x

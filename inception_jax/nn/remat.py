"""Rematerialisation: the backward pass recomputes cheap operations, to save memory."""

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

    The backward pass recomputes everything between them: normalisation, ReLU, pools, concatenation,
    depthwise convolutions. It also recomputes a convolution of the image, because the image has few
    channels and the output is large. Sums of residual blocks are stored if a network marks them
    with `save_for_backward`, as Inception-ResNets and Xception do. The numbers are the same.

    Args:
        function: function of arrays or pytrees of arrays.
    """

    def named(*args: Any) -> Any:
        with _naming(True):
            return function(*args)

    policy = jax.checkpoint_policies.save_only_these_names(_SAVED)
    return jax.checkpoint(named, policy=policy)


def save_for_backward(x: jax.Array, *, work: float = math.inf) -> jax.Array:
    """Marks an array that the gradient of `rematerialised` stores, if it is expensive to compute.

    Outside `rematerialised` the mark has no effect. The sums of successive residual blocks are
    marked too. Otherwise the gradient of the last block would cause all of them to be recomputed
    early and kept in memory until needed.

    Args:
        x: output of a convolution, or the sum of a residual block.
        work: multiplications for each element of `x`. Below 64, `x` is not marked.
    """
    return checkpoint_name(x, _SAVED) if _naming.value and work >= _LEAST_WORK else x

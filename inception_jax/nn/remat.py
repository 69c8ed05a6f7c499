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
    depthwise convolutions. It also recomputes convolutions that need few multiplications for each
    output, such as a 3x3 convolution of an image with three channels. Sums of residual blocks are
    stored if a network marks them with `save_for_backward`, as Inception-ResNets and Xception do.
    Results and gradients do not change.

    Args:
        function: function of arrays or pytrees of arrays.
    """

    def named(*args: Any) -> Any:
        with _naming(True):
            return function(*args)

    policy = jax.checkpoint_policies.save_only_these_names(_SAVED)
    return jax.checkpoint(named, policy=policy)


def save_for_backward(x: jax.Array, *, work: float = math.inf) -> jax.Array:
    """Returns `x`, marked to be stored for the backward pass if it is expensive to compute.

    Only `rematerialised` reads the mark. Networks mark the sums of successive residual blocks too.
    Otherwise the gradient of the last block would cause all sums to be recomputed early and kept in
    memory until needed.

    Args:
        x: output of a convolution, or the sum of a residual block.
        work: multiplications for each element of `x`. Below 64, `x` is not marked.
    """
    return checkpoint_name(x, _SAVED) if _naming.value and work >= _LEAST_WORK else x

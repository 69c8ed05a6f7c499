"""Initial values of kernels, with the distributions of `inception_jax.nn.init`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch

# Standard deviation of a unit normal distribution truncated at two standard deviations.
_CUT_STD = 0.87962566103423978


def conv_kernel(weight: torch.Tensor) -> None:
    """Initialises a weight [out, in, h, w] like TF-slim's `variance_scaling_initializer`."""
    _variance_scaling(weight, 2.0)


def depthwise_kernel(weight: torch.Tensor) -> None:
    """Initialises a depthwise weight [c, 1, h, w].

    The variance is 1 / fan-in, without a factor of 2, because no ReLU follows directly.
    """
    _variance_scaling(weight, 1.0)


def linear_kernel(weight: torch.Tensor) -> None:
    """Initialises a linear weight [out, in] with a variance of 1 / fan-in."""
    _variance_scaling(weight, 1.0)


def xavier(weight: torch.Tensor) -> None:
    """Initialises a weight like Caffe's "xavier" filler.

    The distribution is uniform with a variance of 1 / fan-in.
    """
    bound = math.sqrt(3 / weight[0].numel())
    torch.nn.init.uniform_(weight, -bound, bound)


def truncated_normal(stddev: float) -> Callable[[torch.Tensor], None]:
    """Returns a function that initialises a weight from a truncated normal distribution.

    The weight is changed in place. The distribution has the standard deviation `stddev` before it
    is truncated at two standard deviations.
    """
    return functools.partial(_cut_normal, std=stddev)  # a lambda could not be pickled


def _variance_scaling(weight: torch.Tensor, scale: float) -> None:
    _cut_normal(weight, math.sqrt(scale / weight[0].numel()) / _CUT_STD)


def _cut_normal(weight: torch.Tensor, std: float) -> None:
    torch.nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)

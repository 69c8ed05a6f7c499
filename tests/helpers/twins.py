"""Pairs of a JAX network and its PyTorch twin with equal random tensors.

If PyTorch is not installed, test modules that import this module are skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from tests.helpers.networks import kept_for_a_network, network, small

pytest.importorskip("torch", reason="needs the PyTorch twin")
import torch

import reference_torch


@kept_for_a_network
def pair(
    name: str, dtype: str, *, hostile: bool = False, **options: Any
) -> tuple[nnx.Module, torch.nn.Module]:
    """Returns a network from `network(...)` and its PyTorch twin, both in evaluation mode.

    The twin is the same network in PyTorch, from `reference_torch`. The pair is cached: do not
    change it. The arguments are those of `network`.
    """
    model = network(name, dtype, hostile=hostile, **options)
    return model, twin_of(model, name, dtype, **options)


def twin_of(model: nnx.Module, name: str, dtype: str, **options: Any) -> torch.nn.Module:
    """Returns a new PyTorch twin with the tensors of a network.

    The twin is the same network in PyTorch, from `reference_torch`. `options` are the options with
    which the network was built.
    """
    return reference_torch.create_model(
        name,
        dtype=getattr(torch, dtype),
        weights=ij.to_torch(model),
        **{**small(name), **options},
    )


def to_nchw(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(np.asarray(array))).permute(0, 3, 1, 2).contiguous()

"""Builds a network from its name and options, without loading weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from inception_jax.models import model_class, model_info
from inception_jax.nn.model import Model, Spec, layer_paths


def build(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    *,
    aux_heads: bool = False,
    width_multiplier: float = 1.0,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
    **readings: Any,
) -> Model:
    """Builds a network in evaluation mode, with random parameters.

    The arguments are those of `create_model`, except `weights`. `readings` are the options of the
    network's class.
    """
    info = model_info(name)
    num_classes = info.num_classes if num_classes is None else num_classes
    readings = {**info.options, **readings}
    model: Model = model_class(name)(
        num_classes,
        in_channels,
        **({"aux_heads": True} if aux_heads else {}),
        width_multiplier=width_multiplier,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
        **readings,
    )
    model.eval()
    options = tuple(sorted(readings.items()))
    model.spec = Spec(name, num_classes, in_channels, aux_heads, width_multiplier, options)
    model.layer_order = tuple(layer_paths(model))
    model.info = dataclasses.replace(info.for_channels(in_channels), num_classes=num_classes)
    return model

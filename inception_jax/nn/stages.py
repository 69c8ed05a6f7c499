"""Which stages a network has; nothing is computed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from inception_jax.nn.init import ONE_KEY
from inception_jax.nn.model import Model

_LARGE = 4096  # pixels; ignores the border that unpadded convolutions remove


@dataclasses.dataclass(frozen=True)
class FeatureInfo:
    """A stage of a network.

    Attributes:
        name: its key in the dictionary that `features` returns.
        channels: of its map.
        reduction: side of the image divided by that of the map. Unpadded convolutions make a map
            smaller by some more pixels: the last map of Inception V3 has 8x8 for 299x299.
        tap: whether it is one of the stages, one for each size of map, that detectors and
            segmenters use. timm's `features_only` returns the same ones where it has the network.
    """

    name: str
    channels: int
    reduction: int
    tap: bool


def feature_info(model: Model) -> tuple[FeatureInfo, ...]:
    """Returns the stages that `model.features` returns, in forward order.

    Args:
        model: may be abstract (`nnx.eval_shape`); nothing is computed.
    """
    graphdef, state = nnx.split(model.eval_view())
    images = jax.ShapeDtypeStruct((1, _LARGE, _LARGE, model.in_channels), jnp.float32)
    maps = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s).features(x), state, images)
    return tuple(
        FeatureInfo(
            name, map.shape[3], 2 ** round(math.log2(_LARGE / map.shape[1])), name in model.taps
        )
        for name, map in maps.items()
    )


def stages_of(model_class: type[Model], options: dict[str, Any]) -> tuple[FeatureInfo, ...]:
    """Returns the stages of the network that a class builds with these options."""
    build = lambda: model_class(rngs=ONE_KEY, **options)  # type: ignore[call-arg]  # noqa: E731
    return feature_info(nnx.eval_shape(build))

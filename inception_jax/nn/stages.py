"""Finds the stages of a network without computing anything."""

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
    """Facts about a stage of a network.

    Attributes:
        name: key in the dictionary that `features` returns.
        channels: channels of the stage's feature map.
        reduction: downsampling factor: size of the image divided by the size of the feature map,
            rounded to a power of two. The rounding hides the few pixels that unpadded convolutions
            remove: for 299x299 images, Inception V3's last feature map is 8x8, with reduction 32.
        tap: whether this stage is for detectors and segmenters, which take one stage of each
            feature map size. If timm has the network, its `features_only` returns these stages.
    """

    name: str
    channels: int
    reduction: int
    tap: bool


def feature_info(model: Model) -> tuple[FeatureInfo, ...]:
    """Returns a `FeatureInfo` for each stage that `model.features` returns, in forward order.

    Args:
        model: network, which may be abstract (`nnx.eval_shape`); nothing is computed.
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
    """Returns a `FeatureInfo` for each stage of the network `model_class(**options)`."""
    build = lambda: model_class(rngs=ONE_KEY, **options)  # type: ignore[call-arg]  # noqa: E731
    return feature_info(nnx.eval_shape(build))

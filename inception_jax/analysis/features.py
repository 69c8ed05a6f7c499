"""A network's stages as features: which there are, and how to compute some of them."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

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


def feature_extractor(
    model: Model, stages: Iterable[str] | None = None
) -> Callable[[ArrayLike], dict[str, jax.Array]]:
    """Returns a compiled function that computes some stages, and only what they need.

    It may be called inside other programs, and differentiated with respect to the images. For
    gradients of parameters call `model.features` inside a compiled program, which also computes
    only what is used.

    Args:
        model: in any mode; evaluation mode is used. Later changes to it have no effect.
        stages: names in `feature_info`; None: its taps.

    Returns:
        A function of images [n, h, w, c], normalised as `model_info` says, to the maps
        [n, h', w', c'] by the stages' names, in forward order.

    Raises:
        ValueError: for a stage that the network does not have, or for none; by the function, for
            images that the network does not take.
    """
    known = [info.name for info in feature_info(model)]
    wanted = list(model.taps if stages is None else stages)
    check_stages(wanted, known)
    graphdef, state = nnx.split(model.eval_view())

    @jax.jit
    def compute(state: nnx.State, images: jax.Array) -> OrderedDict[str, jax.Array]:
        maps = nnx.merge(graphdef, state).features(images)
        return OrderedDict((name, maps[name]) for name in known if name in wanted)

    return lambda images: compute(state, jnp.asarray(images))


def check_stages(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Checks names of stages.

    Raises:
        ValueError: for an unknown name, with near ones, or for no name at all.
    """
    if not wanted:
        raise ValueError(f"no stage is named; there are {', '.join(known)}")
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise ValueError(f"there is no stage {name!r}; there is {', '.join(near)}")

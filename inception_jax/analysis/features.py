"""A network's stages as features: what there is, and some of them without the rest."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from inception_jax.analysis.tracing import evaluating
from inception_jax.nn.model import Model

_LARGE = 4096  # pixels: beside them what convolutions without padding take off a map is nothing


@dataclasses.dataclass(frozen=True)
class FeatureInfo:
    """A stage of a network.

    Attributes:
        name: in the dictionary that `features` returns.
        channels: of its map.
        reduction: pixels of the image a pixel of the map, along each axis. Without padding a map
            is smaller by some pixels: Inception V3's last of a 299x299 image has 8x8.
        tap: one of the stages, one a size of map, that detectors and segmenters take: timm's
            `features_only` returns the same ones of the networks that it has.
    """

    name: str
    channels: int
    reduction: int
    tap: bool


def feature_info(model: Model) -> tuple[FeatureInfo, ...]:
    """Returns the stages that `model.features` returns, in forward order.

    Args:
        model: an abstract one (`nnx.eval_shape`) will do; nothing is computed.
    """
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, _LARGE, _LARGE, model.in_channels), jnp.float32)
    maps = jax.eval_shape(lambda s, x: evaluating(graphdef, s).features(x), state, images)
    return tuple(
        FeatureInfo(
            name, map.shape[3], 2 ** round(math.log2(_LARGE / map.shape[1])), name in model.taps
        )
        for name, map in maps.items()
    )


def feature_extractor(
    model: Model, stages: Iterable[str] | None = None
) -> Callable[[ArrayLike], dict[str, jax.Array]]:
    """Returns a compiled function that computes some stages, and nothing that they do not need.

    It may be called inside other programs, and differentiated. For the parameters' gradients call
    `model.features` inside the program: there too, what is not used is not computed.

    Args:
        model: as it is now, in any mode; what is done to it later has no effect.
        stages: names in `feature_info`; None: its taps.

    Returns:
        A function of images [n, h, w, c], normalised as `model_info` says, to the maps
        [n, h', w', c'] by the stages' names, in forward order.

    Raises:
        ValueError: for a stage that the network does not have, or for none; the function itself,
            for images that the network does not take.
    """
    known = [info.name for info in feature_info(model)]
    wanted = list(model.taps if stages is None else stages)
    check_stages(wanted, known)
    graphdef, state = nnx.split(model)

    @jax.jit
    def compute(state: nnx.State, images: jax.Array) -> OrderedDict[str, jax.Array]:
        maps = evaluating(graphdef, state).features(images)
        return OrderedDict((name, maps[name]) for name in known if name in wanted)

    return functools.partial(_call, compute, state)


def check_stages(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Refuses names of stages that are not known, with near ones, and none at all.

    Raises:
        ValueError: for these.
    """
    if not wanted:
        raise ValueError(f"no stage is named; there are {', '.join(known)}")
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise ValueError(f"there is no stage {name!r}; there is {', '.join(near)}")


def _call(compute: Callable, state: nnx.State, images: ArrayLike) -> dict[str, jax.Array]:
    return compute(state, jnp.asarray(images))

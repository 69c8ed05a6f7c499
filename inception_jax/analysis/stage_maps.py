"""Computes the feature maps of some stages of a network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from inception_jax.nearest import nearest
from inception_jax.nn.layers import check_is_array
from inception_jax.nn.model import Model
from inception_jax.nn.stages import feature_info


def feature_extractor(
    model: Model, stages: Iterable[str] | None = None
) -> Callable[[ArrayLike], dict[str, jax.Array]]:
    """Returns a compiled function that computes the feature maps of some stages and nothing else.

    The function can be called inside other compiled functions, and differentiated with respect to
    the images. For gradients with respect to parameters, call `model.features` inside a compiled
    function: there, too, only the maps that are used are computed.

    Args:
        model: network in any mode; evaluation mode is used. Later changes to the network have no
            effect.
        stages: names of stages in `feature_info`; None: the stages with `tap` set, one for each map
            size.

    Returns:
        A function that maps images [n, h, w, c], normalised as `model_info` says, to a dict of
        feature maps [n, h', w', c'] by stage name, in forward order. The function raises ValueError
        for images that the network does not take.

    Raises:
        ValueError: for an unknown stage, or if no stage is given.
    """
    known = [info.name for info in feature_info(model)]
    wanted = list(model.taps if stages is None else stages)
    check_stages(wanted, known)
    graphdef, state = nnx.split(model.eval_view())

    @jax.jit
    def compute(state: nnx.State, images: jax.Array) -> OrderedDict[str, jax.Array]:
        maps = nnx.merge(graphdef, state).features(images)
        return OrderedDict((name, maps[name]) for name in known if name in wanted)

    def extract(images: ArrayLike) -> OrderedDict[str, jax.Array]:
        check_is_array(images)
        return compute(state, jnp.asarray(images))

    return extract


def check_stages(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Checks that all wanted stages are known.

    Raises:
        ValueError: if no stage is wanted, or for an unknown name; the message suggests similar
            ones.
    """
    if not wanted:
        raise ValueError(f"no stage is named; there are {', '.join(known)}")
    for name in wanted:
        if name not in known:
            near = nearest(name, known) or known
            raise ValueError(f"there is no stage {name!r}; there is {', '.join(near)}")

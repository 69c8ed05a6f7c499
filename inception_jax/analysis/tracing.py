"""A network's program, and where in it the stages are."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import jax
from flax import nnx
from jax.extend.core import ClosedJaxpr


def evaluating(graphdef: nnx.GraphDef, state: Any) -> Any:
    """Returns a network of its own, in evaluation, whatever the mode of the one it was split of."""
    model = nnx.merge(graphdef, state)
    model.eval()
    return model


def observed(
    graphdef: nnx.GraphDef, state: Any, images: jax.Array
) -> tuple[OrderedDict[str, jax.Array], jax.Array]:
    """Runs a network in evaluation; returns its stages' maps and its logits, of one computation."""
    model = evaluating(graphdef, state)
    maps: OrderedDict[str, jax.Array] = OrderedDict()
    kind: Any = type(model)

    class Observed(kind):
        def features(self, *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
            maps.update(super().features(*args, **kwargs))
            return maps

    model.__class__ = Observed  # of this object alone, which was made here
    logits = model(images)
    return maps, logits


def traced(
    graphdef: nnx.GraphDef, state: Any, images: Any
) -> tuple[ClosedJaxpr, OrderedDict[str, Any]]:
    """Traces a network in evaluation.

    Args:
        graphdef: of the network.
        state: its parameters and statistics; shapes will do.
        images: [n, h, w, c], or their shape.

    Returns:
        The program, whose inputs are the leaves of the state and the images and whose outputs are
        the stages' maps and the logits; and the shape of each stage's map.
    """
    run = functools.partial(observed, graphdef)
    program, (maps, _) = jax.make_jaxpr(run, return_shape=True)(state, images)
    return program, maps

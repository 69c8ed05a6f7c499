"""Traces a network and collects the facts that drawings show."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

from flax import nnx

from inception_jax.analysis.macs import count_macs
from inception_jax.create import abstract_model
from inception_jax.drawing import tracing
from inception_jax.drawing.from_jaxpr import read_graph
from inception_jax.drawing.graph import Graph, inside
from inception_jax.drawing.simplify import simplify
from inception_jax.nn.model import Model
from inception_jax.registry import model_info


@dataclasses.dataclass(frozen=True)
class Network:
    """A traced network.

    Attributes:
        name: name that `create_model` takes; for a network that it did not build, the class name.
        graph: graph of the network's operations.
        sizes: number of elements of each parameter, by the parameter's path.
        macs: number of multiply-accumulates for one image.
        aux_names: names of the auxiliary classifiers.
    """

    name: str
    graph: Graph
    sizes: Mapping[str, int]
    macs: int
    aux_names: tuple[str, ...]

    def parameters(self, module: str) -> int:
        """Returns the number of parameters in a module."""
        return sum(size for path, size in self.sizes.items() if inside(path, module))


def network_of(name_or_model: str | Model, input_size: int | tuple[int, int] | None) -> Network:
    """Traces a network and returns it as a `Network`. See `draw` for the arguments.

    Networks traced by name are cached.

    Raises:
        UnknownModelError: for an unknown name.
        ValueError: if the network does not support the image size, or if `input_size` is None for
            a network that `create_model` did not build.
    """
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if isinstance(name_or_model, str):
        return _named(name_or_model, size)
    return _built(name_or_model, size)


@functools.lru_cache(maxsize=64)  # a gallery draws about ten modules of one network
def _named(name: str, size: tuple[int, int] | None) -> Network:
    aux_heads = bool(model_info(name).aux_heads)
    return _built(abstract_model(name, aux_heads=aux_heads), size)


def _built(model: Model, size: tuple[int, int] | None) -> Network:
    name = model.spec.name if model.spec else type(model).__name__
    if size is None:
        if model.spec is None:
            raise ValueError(f"this {name} was not built by create_model: say input_size")
        side = model_info(name).input_size
        size = side, side
    model = model.eval_view()
    graph = simplify(read_graph(tracing.trace(model, size)))
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    sizes = {".".join(map(str, path)): math.prod(leaf.shape) for path, leaf in flat}
    macs = count_macs(model, size, model.in_channels)
    return Network(name, graph, sizes, macs, model.aux_names)

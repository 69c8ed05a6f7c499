"""Traces a network, with marks for its modules, stages and dropout layers.

A mark is a named identity operation in the jaxpr. Marks show where a module begins and ends, which
array is the output of a stage, and where dropout is applied.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from inception_jax.nn import layers, ops, rewrites
from inception_jax.nn.model import Model

Event = Literal["enter", "leave", "stage", "dropout"]
_PREFIX = "drawing"


@dataclasses.dataclass(frozen=True)
class MarkedProgram:
    """A traced network.

    Attributes:
        closed: the jaxpr with its constants. Its inputs are the leaves of the network's state,
            then the images. Its outputs are the logits, then the auxiliary classifiers' logits.
        parameters: paths of the leaves of the network's state, in the order of the inputs.
        modules: class of each module, by the module's path; the empty path is the network.
    """

    closed: Any
    parameters: tuple[str, ...]
    modules: dict[str, type[nnx.Module]]


def trace(model: Model, input_size: tuple[int, int]) -> MarkedProgram:
    """Traces a network with all its auxiliary classifiers, without computing anything.

    The result is a `MarkedProgram`. Every convolution and every pool is one equation of the jaxpr.
    BatchNorm uses its running statistics. A dropout layer becomes a mark.

    Raises:
        ValueError: if the network does not support the image size.
    """
    graphdef, state = nnx.split(model)
    parameters = tuple(_dotted(path) for path, _ in nnx.to_flat_state(state))
    modules = {_dotted(path): type(module) for path, module in nnx.iter_modules(model)}
    images = jax.ShapeDtypeStruct((1, *input_size, model.in_channels), jnp.float32)

    def run(state: Any, images: jax.Array) -> list[jax.Array]:
        network = nnx.merge(graphdef, state)
        network.eval()
        network.set_view(deterministic=False)  # with auxiliary classifiers, as in training
        _mark_calls(network, ())
        maps = network.features(images, hook=lambda name, x: _mark(x, "stage", name))
        outputs = network.classify(maps)
        # A list, because jax sorts a dict by name.
        return list(outputs.values()) if isinstance(outputs, dict) else [outputs]

    with rewrites.rewritten(), ops.forced_form("native"):
        closed = jax.make_jaxpr(run)(state, images)
    return MarkedProgram(closed, parameters, modules)


def event(equation: Any) -> tuple[Event, str] | None:
    """Returns the kind and name of a mark, or None if the equation is not a mark.

    The name is the path of a module (kinds "enter" and "leave"), the name of a stage ("stage"), or
    the rate of a dropout layer ("dropout").
    """
    if equation.primitive.name != "name":
        return None
    prefix, _, rest = equation.params["name"].partition(":")
    kind, _, name = rest.partition(":")
    return (kind, name) if prefix == _PREFIX else None


def _mark(x: jax.Array, kind: Event, name: str) -> jax.Array:
    return checkpoint_name(x, f"{_PREFIX}:{kind}:{name}")


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _mark_calls(parent: nnx.Module, path: tuple[Any, ...]) -> None:
    """Replaces submodules, at every depth and in place, with wrappers that mark their calls.

    The marks show which operations of the jaxpr belong to which module. A dropout layer is replaced
    with a `_MarkedDropout`. Submodules that cannot be called, such as lists, are kept.

    Args:
        parent: module whose submodules are replaced.
        path: path of `parent` in the network.
    """
    for key, child in list(nnx.iter_children(parent)):
        if not isinstance(child, nnx.Module):
            continue
        _mark_calls(child, (*path, key))
        if isinstance(child, nnx.Dropout):
            child = _MarkedDropout(0.0 if isinstance(child, layers.DropPath) else child.rate)
        elif callable(child):
            child = _Marked(child, _dotted((*path, key)))
        setattr(parent, str(key), child)  # a list's attributes are its indices


class _Marked(nnx.Module):
    """Wraps a module so that the jaxpr shows where each call of the module begins and ends.

    The input of a call gets the mark "enter", and its output the mark "leave". Calls of the
    module's methods are marked too.
    """

    def __init__(self, module: Any, path: str):
        self.module = module
        self.path = path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._between_marks(self.module.__call__, *args, **kwargs)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.module)

    def __getitem__(self, index: int) -> Any:
        return self.module[index]

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.module, name)
        if not inspect.ismethod(member):
            return member
        return lambda *args, **kwargs: self._between_marks(member, *args, **kwargs)

    def _between_marks(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a method whose first argument is an array, and marks the call.

        The first argument gets the mark "enter". The result gets the mark "leave"; if the method
        returns several arrays, only the last one gets it.
        """
        x = _mark(args[0], "enter", self.path)
        leaves, tree = jax.tree.flatten(method(x, *args[1:], **kwargs))
        return jax.tree.unflatten(tree, [*leaves[:-1], _mark(leaves[-1], "leave", self.path)])


class _MarkedDropout(nnx.Module):
    """Replaces a dropout layer. It returns its input, with a mark unless the rate is 0."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        del rngs  # unused
        return _mark(x, "dropout", str(self.rate)) if self.rate else x

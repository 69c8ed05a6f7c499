"""A network's program with marks where its modules and stages begin and end."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from inception_jax.nn import layers, ops, rewrites
from inception_jax.nn.model import Model

Event = Literal["enter", "leave", "stage", "dropout"]
_PREFIX = "drawing"
_PATH = "_drawn_as"


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced network.

    Attributes:
        closed: the jaxpr from the leaves of the network's state and the images to the logits, and
            to those of its auxiliary classifiers, with its constants.
        parameters: paths of the inputs but the last, which is the images.
        modules: the class of each module by its path; that of the network by the empty one.
    """

    closed: Any
    parameters: tuple[str, ...]
    modules: dict[str, type[nnx.Module]]


def trace(model: Model, input_size: tuple[int, int]) -> Program:
    """Traces a network with every auxiliary classifier that it has; nothing is computed.

    The program is the plain one: every convolution and every pool is one equation, BatchNorm takes
    its running statistics, and dropout is a mark.

    Raises:
        ValueError: for images that the network cannot take.
    """
    graphdef, state = nnx.split(model)
    parameters = tuple(_name(path) for path, _ in nnx.to_flat_state(state))
    modules = {_name(path): type(module) for path, module in nnx.iter_modules(model)}
    images = jax.ShapeDtypeStruct((1, *input_size, model.in_channels), jnp.float32)

    def function(state: Any, images: jax.Array) -> Any:
        outputs = _marked(nnx.merge(graphdef, state))(images)
        # In a list the order stays: jax sorts a dict's names.
        return list(outputs.values()) if isinstance(outputs, dict) else [outputs]

    with rewrites.rewritten(), ops.forced_form("native"):
        closed = jax.make_jaxpr(function)(state, images)
    return Program(closed, parameters, modules)


def event(equation: Any) -> tuple[Event, str] | None:
    """Returns what an equation marks, and the name of what it marks, if it is a mark."""
    if equation.primitive.name != "name":
        return None
    prefix, _, rest = equation.params["name"].partition(":")
    kind, _, name = rest.partition(":")
    return (kind, name) if prefix == _PREFIX else None


def _mark(x: jax.Array, kind: Event, name: str) -> jax.Array:
    return checkpoint_name(x, f"{_PREFIX}:{kind}:{name}")


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _marked(model: Model) -> Model:
    """Lets every module of a network, which must be no one else's, mark its calls."""
    model.eval()
    # Auxiliary classifiers are a part of the program in training alone, as dropout is.
    model = nnx.view(model, deterministic=False, raise_if_not_found=False)
    for path, module in list(nnx.iter_modules(model)):
        vars(module)[_PATH] = _name(path)
        object.__setattr__(module, "__class__", _marking(type(module)))
    return model


@functools.cache
def _marking(kind: type[nnx.Module]) -> type:
    """Returns a subclass whose calls are marked: the class itself is other threads' too."""
    methods: dict[str, Any] = {}
    if issubclass(kind, Model):
        methods["features"] = _features(kind.features)
    elif issubclass(kind, nnx.Dropout):
        methods["__call__"] = _drop
    else:
        own = itertools.takewhile(lambda base: not base.__module__.startswith("flax"), kind.__mro__)
        names = {name for base in own for name, f in vars(base).items() if _is_call(name, f)}
        methods |= {name: _call(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), methods)


def _is_call(name: str, member: Any) -> bool:
    return inspect.isfunction(member) and (name == "__call__" or not name.startswith("_"))


def _call(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that maps an array to one or several, with marks before and after it."""

    @functools.wraps(method)
    def marked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not (args and isinstance(args[0], jax.Array)):
            return method(self, *args, **kwargs)
        path = vars(self)[_PATH]
        result = method(self, _mark(args[0], "enter", path), *args[1:], **kwargs)
        leaves, tree = jax.tree.flatten(result)
        return jax.tree.unflatten(tree, [*leaves[:-1], _mark(leaves[-1], "leave", path)])

    return marked


def _features(method: Callable[..., dict[str, jax.Array]]) -> Callable[..., Any]:
    @functools.wraps(method)
    def marked(self: Any, images: jax.Array, **kwargs: Any) -> dict[str, jax.Array]:
        maps = method(self, images, **kwargs)
        return type(maps)((name, _mark(x, "stage", name)) for name, x in maps.items())

    return marked


def _drop(self: Any, x: jax.Array, *, rngs: Any = None) -> jax.Array:
    del rngs  # no program without random numbers would have them
    if isinstance(self, layers.DropPath) or not self.rate:
        return x
    return _mark(x, "dropout", str(self.rate))

"""Compares the shapes of a file's tensors with those of a network of any width."""

from __future__ import annotations

import functools

from flax import nnx

from inception_jax.building import build
from inception_jax.nn.init import ONE_KEY
from inception_jax.nn.model import Model
from inception_jax.weights.torch_names import Tensors, torch_shapes


@functools.lru_cache(maxsize=64)
def skeleton(name: str) -> Model:
    """Returns a network with shapes but no values. It is cached, so do not change it."""
    return nnx.eval_shape(lambda: build(name, rngs=ONE_KEY))


def backbone_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Returns the PyTorch twin's tensor shapes by name, without main and auxiliary classifiers."""
    heads = tuple(f"{path}." for path in (*model.classifiers, *model.aux_names))
    shapes = torch_shapes(model)
    return {name: shape for name, shape in shapes.items() if not name.startswith(heads)}


def options(tensors: Tensors, model: Model) -> dict[str, int]:
    """Returns the network options that follow from the shapes of a file's tensors.

    The options are `in_channels` and `embedding_size`, as far as the shapes show them.

    Args:
        tensors: tensors by their names in the PyTorch twin.
        model: network of the same class, with any options.
    """
    found = {}
    shapes = torch_shapes(model)
    channels = model.in_channels
    first = next((n for n, s in shapes.items() if len(s) == 4 and s[1] == channels), "")
    if first in tensors and is_alike(tensors[first].shape, shapes[first]):
        found["in_channels"] = tensors[first].shape[1]
    bottleneck = tensors.get("bottleneck.weight")
    # At full width; files of this library state their width.
    if bottleneck is not None and bottleneck.ndim == 2 and bottleneck.shape[1] == 1792:
        found["embedding_size"] = bottleneck.shape[0]
    return found


def is_alike(shape: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Returns whether two shapes in PyTorch's axis order differ only in channels."""
    return len(shape) == len(needed) and shape[2:] == needed[2:]

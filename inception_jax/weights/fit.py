"""Measures how many of a network's tensors a file has, by names and ranks, for any width."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from inception_jax.nn.model import Model
from inception_jax.weights.torch_names import Tensors, torch_shapes

if TYPE_CHECKING:
    from inception_jax.weights.weight_file import WeightFile


@functools.lru_cache(maxsize=64)
def skeleton(name: str) -> Model:
    """Returns a network without values for a name. It is cached; do not change it."""
    from inception_jax.create import abstract_model  # that module imports this one

    return abstract_model(name)


def backbone_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the twin's tensors, without the classifiers."""
    heads = tuple(f"{path}." for path in (*model.classifiers, *model.aux_names))
    shapes = torch_shapes(model)
    return {name: shape for name, shape in shapes.items() if not name.startswith(heads)}


def options(tensors: Tensors, model: Model) -> dict[str, int]:
    """Returns the options of a network that follow from the shapes of a file's tensors.

    Args:
        tensors: by the twin's names.
        model: any of the same kind.
    """
    found = {}
    shapes = torch_shapes(model)
    channels = model.in_channels
    first = next((n for n, s in shapes.items() if len(s) == 4 and s[1] == channels), "")
    if first in tensors and is_alike(tensors[first].shape, shapes[first]):
        found["in_channels"] = tensors[first].shape[1]
    bottleneck = tensors.get("bottleneck.weight")
    # At full width; our own files state their width.
    if bottleneck is not None and bottleneck.ndim == 2 and bottleneck.shape[1] == 1792:
        found["embedding_size"] = bottleneck.shape[0]
    return found


def is_alike(shape: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Returns whether two shapes in PyTorch's axis order differ only in channels."""
    return len(shape) == len(needed) and shape[2:] == needed[2:]


def nearest(file: WeightFile, names: Iterable[str]) -> tuple[str, float]:
    """Returns the network with the largest share of tensors in a file, and this share."""
    shares = {name: share(file, name) for name in names}
    best = max(shares, key=lambda name: shares[name])
    return best, shares[best]


def share(file: WeightFile, name: str) -> float:
    """Returns the share of tensors that a network and a file have in common, without classifiers.

    Tensors are in common if their name and window are equal, for any width.
    """
    model = skeleton(name)
    needed = backbone_shapes(model)
    found = file.to_twin(model)
    heads = file.other_head(found, model).keys() | (torch_shapes(model).keys() - needed.keys())
    same = [n for n, shape in needed.items() if n in found and is_alike(found[n].shape, shape)]
    own = {n for n in found if not n.endswith("num_batches_tracked")} - heads
    own = {n for n in own if not n.startswith(tuple(f"{head}." for head in model.aux_names))}
    return len(same) / max(1, len(needed.keys() | own))

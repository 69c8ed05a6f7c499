"""Finds classifiers with unusual names, and the tensors of heads that a network does not have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from inception_jax.nn.model import Model
from inception_jax.weights.stored import as_array
from inception_jax.weights.torch_names import Tensors, torch_shapes

# The tensors of one linear layer in PyTorch, in Keras' files, and in those of Keras 3.
_LINEAR = (("weight", "bias"), ("kernel", "bias"), ("vars/0", "vars/1"), ("weights", "biases"))

_PIXELS, _MOST_CHANNELS = re.compile(r"(?:.*[._])?(?:mean|std)"), 4
_BESIDE = re.compile(
    r"(?:.*\.)?adjust_channel\..*|(?:.*\.)?(?:criterion|loss\w*|\w+_loss)\.(?:weight|pos_weight)"
)


def adopt(
    tensors: Tensors, outside: Mapping[str, Any], model: Model
) -> tuple[Tensors, tuple[str, ...]]:
    """Renames the classifier if the file has it under an unknown name.

    The classifier is recognised if it is the only layer outside the backbone, is linear, and has as
    many inputs as the model's classifier.

    Args:
        tensors: tensors of the file, with the PyTorch twin's names where the layout knows them.
        outside: tensors of the file that do not belong to the network.
        model: network for these weights, or another network of its class.

    Returns:
        The tensors with the renamed classifier, and the names that its kernel and its bias had; an
        empty tuple of names if nothing was renamed.
    """
    classifier = model.classifiers[0]
    shapes = torch_shapes(model)
    weight = f"{classifier}.weight"
    if weight in tensors or weight not in shapes:
        return tensors, ()
    others = {**head_of(tensors, model), **outside}
    others = {name: x for name, x in others.items() if not _is_beside(name, x)}
    layer = _only_layer(others)
    if layer is None:
        return tensors, ()
    kernel, bias = (others[name] for name in layer)
    rows_first = layer[0].endswith(".weight")
    inputs = shapes[weight][1]
    if len(kernel.shape) != 2 or kernel.shape[1 if rows_first else 0] != inputs:
        return tensors, ()
    array = as_array(kernel)
    kept = {name: tensor for name, tensor in tensors.items() if name not in layer}
    kept[weight] = array if rows_first else np.ascontiguousarray(array.T)
    kept[f"{classifier}.bias"] = as_array(bias)
    return kept, layer


def _is_beside(name: str, tensor: Any) -> bool:
    """Returns whether a tensor belongs to no layer, such as pixel statistics or loss weights."""
    return _BESIDE.fullmatch(name) is not None or (
        _PIXELS.fullmatch(name) is not None and math.prod(tensor.shape) <= _MOST_CHANNELS
    )


def _only_layer(others: Mapping[str, Any]) -> tuple[str, str] | None:
    if len(others) != 2:
        return None
    for pair in _LINEAR:
        names = sorted(others, key=lambda name: name.endswith(pair[1]))
        owners = {
            name[: -len(leaf)] for name, leaf in zip(names, pair, strict=True) if _is(name, leaf)
        }
        if len(owners) == 1 and all(_is(n, leaf) for n, leaf in zip(names, pair, strict=True)):
            return names[0], names[1]
    return None


def _is(name: str, leaf: str) -> bool:
    return name.removesuffix(":0").endswith((f".{leaf}", f"/{leaf}"))


def head_of(tensors: Tensors, model: Model, known: str = "") -> Tensors:
    """Returns the tensors of a head that the network does not have.

    These are all tensors of the file whose names the network does not have, except those in the
    modules of its backbone or in its auxiliary heads.

    Args:
        tensors: tensors of the file, with the PyTorch twin's names where the layout knows them.
        model: network for these weights.
        known: regular expression for the backbone's names in a publisher's layout.
    """
    own = tuple(f"{name}." for name in _modules(model))
    shapes = torch_shapes(model)
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name not in shapes
        and not name.startswith(own)
        and not (known and re.match(known, name))
        and not name.endswith("num_batches_tracked")
    }


def _modules(model: Model) -> set[str]:
    heads = set(model.classifiers)
    tops = {name.partition(".")[0] for name in torch_shapes(model)} | set(model.aux_names)
    return tops - {head for head in heads if "." not in head}

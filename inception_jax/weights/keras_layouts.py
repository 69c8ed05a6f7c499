"""Translates the layers of Keras' InceptionV3, InceptionResNetV2 and Xception.

Some layers have explicit names (`block2_sepconv1`, `conv_7b`). Others are named by their class and
a number (`conv2d_7`). The numbers depend on what the program built before, so only their order
counts. It is the order in which Keras created the layers. This library defines its layers in the
same order.

Keras 3's own files (`.weights.h5`, `.keras`) name every layer by its class and an index
(`layers/conv2d_7`). The index follows the order of `model.layers`, in which layers are sorted by
their distance from the output, not by creation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from inception_jax.weights.torch_names import (
    Tensors,
    depthwise_to_torch,
    kernel_from_torch,
    kernel_to_torch,
)

Kind = Literal["conv2d", "separable_conv2d", "batch_normalization", "dense"]

# The tensors of a layer in the order in which Keras stores them.
_LEAVES: dict[str, tuple[str, ...]] = {
    "conv2d": ("kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}
_TORCH_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "depthwise_kernel": "depthwise.weight",
    "pointwise_kernel": "pointwise.weight",
}
# Keras 1 wrote the longer names.
_AUTOMATIC = {
    "conv2d": r"(?:conv2d|convolution2d)(?:_(\d+))?",
    "batch_normalization": r"(?:batch_normalization|batchnormalization)(?:_(\d+))?",
}


class Place(NamedTuple):
    """A layer of Keras' network.

    Attributes:
        kind: class of the layer in Keras.
        name: explicit name in Keras; empty if Keras numbers the layer.
        path: path of the layer in the PyTorch twin. The names of its tensors begin with this path.
    """

    kind: Kind
    name: str
    path: str


class Stored(NamedTuple):
    """A layer as stored by Keras.

    Attributes:
        automatic: name in Keras 3's own files, such as "conv2d_3" for the fourth Conv2D of
            `model.layers`. Layers with explicit names are counted too.
        name: explicit name, such as "conv_7b". For a layer without one, a name such as "conv2d_3",
            for the fourth such Conv2D in the order of creation.
        tensors: tensors by names such as "kernel", in the order in which Keras stores them.
    """

    automatic: str
    name: str
    tensors: dict[str, np.ndarray]


def recognise(tensors: Mapping[str, np.ndarray]) -> str | None:
    """Returns the name of the network whose Keras file has these tensors, or None."""
    layers = {_layer(name) for name in tensors}
    count = {kind: len(_numbered(layers, kind)) for kind in ("conv2d", "separable_conv2d")}
    if "block14_sepconv2" in layers or count["separable_conv2d"] > 17:
        return "xception"
    if "block35_1_conv" in layers or count["conv2d"] > 110:
        return "inception_resnet_v2"
    return "inception_v3" if count["conv2d"] > 47 else None


def to_twin(tensors: Tensors, layers: Sequence[str]) -> Tensors:
    """Translates a Keras file to the PyTorch twin's names and axis order.

    Args:
        tensors: tensors by their names in the file, such as `conv2d_7/kernel` or
            `layers/conv2d_7/vars/0`.
        layers: paths of this library's layers, in the order of definition.
    """
    places = list(_places(layers))
    found = _found(tensors, places)
    result: Tensors = {}
    for name, tensor in tensors.items():
        place = found.get(_layer(name))
        if place is None:
            result[name] = tensor
            continue
        leaf = _leaf(name, place.kind, tensors)
        result[f"{place.path}.{_TORCH_LEAVES.get(leaf, leaf)}"] = _to_torch_order(leaf, tensor)
    return result


def from_twin(state: Tensors, layers: Sequence[str], bn_scale: bool) -> Iterator[Stored]:
    """Translates the PyTorch twin's tensors to the layers of Keras' network.

    Args:
        state: state dict of the PyTorch twin.
        layers: paths of this library's layers, in the order of definition.
        bn_scale: whether Keras' BatchNorm has a scale. If not, all scales in `state` must be 1.

    Yields:
        One layer of Keras' network: its names, and its tensors in Keras' axis order. The layers
        have the order of Keras' `model.layers`.
    """
    places = list(_places(layers))
    made = _numbers([place for place in places if not place.name])
    ordered = _in_layers_order(places)
    filed = _numbers(ordered)
    for place in ordered:
        tensors = {}
        for leaf in _LEAVES[place.kind]:
            name = f"{place.path}.{_TORCH_LEAVES[leaf]}"
            if name in state and (bn_scale or leaf != "gamma"):
                tensors[leaf] = _to_keras_order(leaf, state[name])
        yield Stored(filed[place], place.name or made[place], tensors)


def _numbers(places: Sequence[Place]) -> dict[Place, str]:
    """Returns a name for each layer, made of its class and a number: conv2d, conv2d_1, ..."""
    counts: dict[str, int] = {}
    names = {}
    for place in places:
        n = counts[place.kind] = counts.get(place.kind, -1) + 1
        names[place] = f"{place.kind}_{n}" if n else place.kind
    return names


def _to_keras_order(leaf: str, tensor: np.ndarray) -> np.ndarray:
    if leaf == "depthwise_kernel":
        return tensor.transpose(2, 3, 0, 1)
    return kernel_from_torch(tensor) if leaf in ("kernel", "pointwise_kernel") else tensor


def _layer(name: str) -> str:
    return name.removeprefix("layers/").partition("/")[0]


def _numbered(layers: set[str], kind: str) -> list[str]:
    pattern = _AUTOMATIC.get(kind, rf"{kind}(?:_(\d+))?")
    found = [match for match in (re.fullmatch(pattern, layer) for layer in layers) if match]
    return [match[0] for match in sorted(found, key=lambda match: int(match[1] or 0))]


def _found(tensors: Tensors, places: Sequence[Place]) -> dict[str, Place]:
    """Maps the names of layers in a file to the layers of Keras' network.

    `tensors` are the file's tensors; `places` are the layers in the order of creation.
    """
    present = {_layer(name) for name in tensors}
    if any(name.startswith("layers/") for name in tensors):
        found, numbered = {}, _in_layers_order(places)
    else:
        found = {place.name: place for place in places if place.name}
        numbered = [place for place in places if not place.name]
    for kind in _LEAVES:
        of_kind = [place for place in numbered if place.kind == kind]
        stored = _numbered(present, kind)
        if kind == "dense" and len(stored) > 1:  # a head of several layers is not the classifier
            continue
        found |= dict(zip(stored, of_kind, strict=False))
    return found


def _leaf(name: str, kind: str, tensors: Tensors) -> str:
    leaf = name.rpartition("/")[2].removesuffix(":0")
    if not leaf.isdigit():
        return leaf
    leaves = _LEAVES[kind]
    if kind == "batch_normalization" and f"{name.rpartition('/')[0]}/3" not in tensors:
        leaves = leaves[1:]
    return leaves[int(leaf)] if int(leaf) < len(leaves) else leaf


def _to_torch_order(leaf: str, tensor: np.ndarray) -> np.ndarray:
    if leaf == "depthwise_kernel":
        return depthwise_to_torch(tensor)
    return kernel_to_torch(tensor) if leaf in ("kernel", "pointwise_kernel") else tensor


def _places(layers: Sequence[str]) -> Iterator[Place]:
    for path in layers:
        if path.startswith("AuxLogits"):
            continue
        parent = path.rpartition(".")[0]
        if path == "fc":
            yield Place("dense", "predictions", path)
        elif path.endswith(".pointwise"):
            yield Place("separable_conv2d", parent.replace(".", "_"), parent)
        elif path.endswith(".conv"):
            yield Place("conv2d", _given_name(parent), path)
        elif path.endswith(".bn"):
            name = _given_name(parent)
            yield Place("batch_normalization", f"{name}_bn" if name else "", path)
        elif path.endswith(".up"):
            block, number, _ = path.split(".")
            yield Place("conv2d", f"{block}_{int(number) + 1}_conv", path)


def _given_name(path: str) -> str:
    if path == "Conv2d_7b_1x1":
        return "conv_7b"
    return path.replace(".", "_") if re.match(r"block1_conv|block\d+[._]sepconv", path) else ""


def _in_layers_order(places: Sequence[Place]) -> list[Place]:
    """Sorts layers like `model.layers`: in each module, layers far from its end come first.

    Layers at the same distance keep the order of creation.
    """
    modules = [_module(place.path) for place in places]
    position = {module: i for i, module in reversed(list(enumerate(modules)))}
    steps = _last_steps(places)
    return sorted(
        places, key=lambda place: (position[_module(place.path)], -_distance(place, steps))
    )


def _module(path: str) -> str:
    match = re.match(r"block(?:35|17|8)\.\d+|[^.]+", path)
    return match[0] if match else path


def _step(path: str) -> tuple[str, int, str]:
    """Splits a path into its branch and position: `branch3x3_2a` -> (branch3x3, 2, a)."""
    branch = re.search(r"\.(branch\w+?)(?:_(\d)([ab]?))?\.", path)
    if branch:
        return branch[1], int(branch[2] or 1), branch[3] or ""
    separable = re.search(r"\.sepconv(\d)", path)
    return ("sepconv", int(separable[1]), "") if separable else ("", 1, "")


def _last_steps(places: Sequence[Place]) -> dict[str, tuple[int, bool]]:
    """Returns the last layer number of each branch, and whether that layer is split in two.

    The keys are module and branch, joined by a dot.
    """
    last: dict[str, tuple[int, bool]] = {}
    for place in places:
        branch, number, half = _step(place.path)
        key = f"{_module(place.path)}.{branch}"
        last[key] = max(last.get(key, (0, False)), (number, bool(half)))
    return last


def _distance(place: Place, last: Mapping[str, tuple[int, bool]]) -> int:
    """Counts the Keras layers from a layer to the end of its module.

    `last` is the result of `_last_steps`.
    """
    path, after = place.path, place.kind == "batch_normalization"
    if path.endswith(".up") or ".residual." in path:
        return -after
    branch, number, _ = _step(path)
    end, split = last[f"{_module(path)}.{branch}"]
    return 3 * (end - number + 1) + split - after

"""Translates variables of DeepLab's Xception and of TensorFlow's Inception graph of 2015.

FID uses this graph of 2015-12-05, `classify_image_graph_def.pb`. It numbers the layers in each
tower of a module. `_GRAPH` lists its layer names in the order in which this library defines the
layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from inception_jax.nn.model import Model
from inception_jax.weights.torch_names import Tensors, depthwise_to_torch, kernel_to_torch

_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_7X7 = "conv tower/conv tower/conv_1 tower/conv_2 tower_1/conv tower_1/conv_1 tower_1/conv_2 "
_7X7 += "tower_1/conv_3 tower_1/conv_4 tower_2/conv"
_5X5 = "conv tower/conv tower/conv_1 tower_1/conv tower_1/conv_1 tower_1/conv_2 tower_2/conv"
_8X8 = "conv tower/conv tower/mixed/conv tower/mixed/conv_1 tower_1/conv tower_1/conv_1 "
_8X8 += "tower_1/mixed/conv tower_1/mixed/conv_1 tower_2/conv"
_GRAPH = {
    "Mixed_5b": ("mixed", _5X5),
    "Mixed_5c": ("mixed_1", _5X5),
    "Mixed_5d": ("mixed_2", _5X5),
    "Mixed_6a": ("mixed_3", "conv tower/conv tower/conv_1 tower/conv_2"),
    **{f"Mixed_6{x}": (f"mixed_{n}", _7X7) for x, n in zip("bcde", range(4, 8), strict=True)},
    "Mixed_7a": (
        "mixed_8",
        "tower/conv tower/conv_1 tower_1/conv tower_1/conv_1 tower_1/conv_2 tower_1/conv_3",
    ),
    "Mixed_7b": ("mixed_9", _8X8),
    "Mixed_7c": ("mixed_10", _8X8),
}


def graph_of_2015(tensors: Tensors, model: Model) -> Tensors:
    """Translates the constants of TensorFlow's Inception graph of 2015-12-05, which FID uses.

    Args:
        tensors: constants by their names in the graph.
        model: Inception V3 that is to load them. Only the order of its layers is used.

    Returns:
        The constants with the PyTorch twin's names and axis order. Constants without a counterpart
        in the network are unchanged.
    """
    places = dict(_graph_places(model.layer_order))
    result: Tensors = {}
    for name, tensor in tensors.items():
        scope, _, leaf = name.rpartition("/")
        if scope == "softmax" and leaf in ("weights", "biases"):
            result[f"fc.{'weight' if leaf == 'weights' else 'bias'}"] = kernel_to_torch(tensor)
        elif leaf == "conv2d_params" and scope in places:
            result[f"{places[scope]}.conv.weight"] = kernel_to_torch(tensor)
        elif leaf in _BATCH_NORM and scope.removesuffix("/batchnorm") in places:
            place = places[scope.removesuffix("/batchnorm")]
            result[f"{place}.bn.{_BATCH_NORM[leaf]}"] = tensor
        else:
            result[name] = tensor
    return result


def _graph_places(layers: Sequence[str]) -> Iterator[tuple[str, str]]:
    ours: dict[str, list[str]] = {}
    for path in layers:
        if path.endswith(".conv") and not path.startswith("AuxLogits"):
            ours.setdefault(path.partition(".")[0], []).append(path.removesuffix(".conv"))
    stem = [paths[0] for module, paths in ours.items() if module.startswith("Conv2d")]
    yield from ((f"conv_{i}" if i else "conv", path) for i, path in enumerate(stem))
    for module, (scope, convs) in _GRAPH.items():
        for conv, path in zip(convs.split(), ours[module], strict=True):
            yield f"{scope}/{conv}", path


_UNIT = re.compile(
    r"(entry_flow|middle_flow|exit_flow)/block(\d+)/unit_(\d+)/xception_module/"
    r"(?:separable_conv(\d)_(depthwise|pointwise)|(shortcut))"
)


def deeplab(tensors: Tensors, model: Model) -> Tensors:
    """Translates the variables of a checkpoint of DeepLab's Xception.

    Args:
        tensors: variables by their names in the checkpoint.
        model: not used; `Layout.translate` passes the network that is to load them.

    Returns:
        The variables with the PyTorch twin's names and axis order. Variables without a counterpart
        in the network are unchanged.
    """
    result: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition("/")
        is_norm = layer.endswith("/BatchNorm")
        place = _deeplab_place(layer.removesuffix("/BatchNorm"), is_norm)
        if place is None or leaf not in {*_BATCH_NORM, *_DEEPLAB_LEAVES}:
            result[name] = tensor
        elif is_norm:
            result[f"{place}.{_BATCH_NORM[leaf]}"] = tensor
        else:
            result[f"{place}.{_DEEPLAB_LEAVES[leaf]}"] = _to_torch_order(leaf, tensor, place)
    return result


_DEEPLAB_LEAVES = {"weights": "weight", "depthwise_weights": "weight", "biases": "bias"}


def _deeplab_place(layer: str, is_norm: bool) -> str | None:
    if layer == "logits":
        return "fc"
    stem = re.fullmatch(r"entry_flow/conv1_(\d)", layer)
    if stem:
        return f"conv{stem[1]}.{'bn' if is_norm else 'conv'}"
    unit = _UNIT.fullmatch(layer)
    if unit is None:
        return None
    flow, block, number, conv, kind, _ = unit.groups()
    at = f"{flow}.{int(number if flow == 'middle_flow' else block) - 1}"
    if conv is None:
        return f"{at}.shortcut{'_bn' if is_norm else ''}"
    return f"{at}.sepconv{conv}.{'bn_' if is_norm else ''}{kind}"


def _to_torch_order(leaf: str, tensor: np.ndarray, place: str) -> np.ndarray:
    if leaf == "depthwise_weights":
        return depthwise_to_torch(tensor)
    if place == "fc" and tensor.ndim == 4 and tensor.shape[:2] == (1, 1):
        tensor = tensor[0, 0]
    return kernel_to_torch(tensor)

"""Translates variable names of TF-slim's and FaceNet's networks to those of the PyTorch twin.

A module has a scope such as `InceptionV3/Mixed_5b`. Inside it, the scope of a convolution states
its branch and step, such as `Branch_1/Conv2d_0b_3x3`. Some of these scopes are irregular: in
Mixed_7b, two convolutions of Branch_1 are both step `0b`; in Mixed_5c, one convolution is called
`Conv_1_0c_5x5`. Nevertheless, a module's convolutions, sorted by branch, step and window, are in
the order in which the same module of this library defines them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from inception_jax.weights.torch_names import Tensors, depthwise_to_torch, kernel_to_torch

_LEAVES = {
    "weights": "conv.weight",
    "biases": "conv.bias",
    "depthwise_weights": "depthwise.weight",
    "pointwise_weights": "pointwise.weight",
    "BatchNorm/gamma": "bn.weight",
    "BatchNorm/beta": "bn.bias",
    "BatchNorm/moving_mean": "bn.running_mean",
    "BatchNorm/moving_variance": "bn.running_var",
}
LEAF = "|".join(_LEAVES)
MODULE = r"(?:Conv2d_\d\w_\dx\d|Mixed_\d\w|Repeat(?:_\d)?|Block8)/"
"""Pattern of a module's scope inside the scope of the network, for all networks."""
_AVERAGE = "/ExponentialMovingAverage"
# Variables that only training uses: optimiser slots, counters, the centres of FaceNet's loss.
_TRAINING = re.compile(
    rf".*/(?:{LEAF})/(?:RMSProp|RMSProp_1|Momentum|Adam|Adam_1|Adagrad)"
    r"|.*/BatchNorm/moving_(?:mean|variance)/(?:biased|local_step)"
    r"|(?:.*/)?(?:global_step|beta\d_power|learning_rate|centers)"
)


def _modules(theirs: str, ours: str) -> dict[str, str]:
    """Maps TF-slim's module names of V1 or V2 to this library's names.

    Args:
        theirs: TF-slim's names without `Mixed_`, separated by spaces.
        ours: this library's names without `inception`, in the same order as `theirs`.
    """
    stem = {"Conv2d_1a_7x7": "conv1", "Conv2d_2b_1x1": "conv2", "Conv2d_2c_3x3": "conv3"}
    pairs = zip(theirs.split(), ours.split(), strict=True)
    return stem | {f"Mixed_{there}": f"inception{here}" for there, here in pairs}


_MODULES = {
    "InceptionV1": _modules("3b 3c 4b 4c 4d 4e 4f 5b 5c", "3a 3b 4a 4b 4c 4d 4e 5a 5b"),
    "InceptionV2": _modules("3b 3c 4a 4b 4c 4d 4e 5a 5b 5c", "3a 3b 3c 4a 4b 4c 4d 4e 5a 5b"),
}


# Modules that identify a network, and the scope of that network. The first module that is found
# decides, because the networks above may also have the modules below.
_ROOTS = {
    "Conv2d_7b_1x1/": "InceptionResnetV2",
    "Repeat/block35_1/": "InceptionResnetV1",
    "Mixed_7d/": "InceptionV4",
    "Mixed_7b/": "InceptionV3",
    "Mixed_4f/": "InceptionV1",
    "Mixed_5a/": "InceptionV2",
}


def root_of(names: Iterable[str]) -> str:
    """Recognises a network by its modules, and returns its scope in TF-slim.

    Args:
        names: names of the variables, without the scope of the network.

    Returns:
        The scope, such as "InceptionV3"; empty if the names are not those of a network.
    """
    names = list(names)
    if not any(re.match(r"(?:Mixed_\d\w|Repeat/block35_1)/Branch_\d/", name) for name in names):
        return ""
    found = (r for module, r in _ROOTS.items() if any(n.startswith(module) for n in names))
    return next(found, "")


def to_twin(tensors: Tensors, layers: Sequence[str], root: str) -> Tensors:
    """Translates a checkpoint's variables to the PyTorch twin's names and axis order.

    If a variable has a moving average, the average is used. Variables that only training uses are
    left out. Variables of unknown layers keep their names.

    Args:
        tensors: variables by name, such as `InceptionV3/Mixed_5b/Branch_0/Conv2d_0a_1x1/weights`.
        layers: paths of the model's layers, in the order of definition.
        root: scope of the whole network, such as "InceptionV3".
    """
    variables = _without_training(tensors)
    places = _places({_scope(name) for name in variables} - {""}, layers, root)
    result: Tensors = {}
    for name, tensor in variables.items():
        place, leaf = places.get(_scope(name)), name[len(_scope(name)) :].strip("/")
        if place is None:
            result[name] = tensor
            continue
        result[_joined(place, leaf)] = _to_torch_order(leaf, tensor, is_linear=_is_linear(place))
    return result


def _without_training(tensors: Tensors) -> Tensors:
    averages = {
        name.removesuffix(_AVERAGE): tensor
        for name, tensor in tensors.items()
        if name.endswith(_AVERAGE)
    }
    raw = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(_AVERAGE) and not _TRAINING.fullmatch(name)
    }
    return raw | averages


def _scope(name: str) -> str:
    """Returns the scope of a variable's layer; empty if the variable belongs to no layer."""
    match = re.fullmatch(rf"(.+)/(?:{LEAF})", name)
    return match[1].removesuffix("/BatchNorm") if match else ""


def _joined(place: str, leaf: str) -> str:
    ours = _LEAVES[leaf]
    if place == "bottleneck" and ours.startswith("bn."):
        return f"bottleneck_{ours}"
    if place.endswith(".separable"):
        place = place.removesuffix(".separable")
        ours = ours.replace("conv.", "pointwise.")
    elif _is_linear(place) or place.endswith(".up"):
        ours = ours.removeprefix("conv.")
    return f"{place}.{ours}"


def _is_linear(place: str) -> bool:
    return place in ("fc", "AuxLogits.fc", "bottleneck")


def _to_torch_order(leaf: str, tensor: np.ndarray, is_linear: bool) -> np.ndarray:
    if leaf == "depthwise_weights":
        return depthwise_to_torch(tensor)
    if leaf not in ("weights", "pointwise_weights"):
        return tensor
    if is_linear and tensor.ndim == 4 and tensor.shape[:2] == (1, 1):
        tensor = tensor[0, 0]  # the classifier is a 1x1 convolution in V1 to V3
    return kernel_to_torch(tensor)


def _places(scopes: Iterable[str], layers: Sequence[str], root: str) -> dict[str, str]:
    """Maps the scopes of TF-slim's layers to the paths of the model's layers.

    `layers` are the model's layers in the order of definition. `root` is the network's scope, such
    as "InceptionV3".
    """
    places: dict[str, str] = {}
    modules: dict[str, list[tuple[tuple[str, str, str], str]]] = {}
    for scope in scopes:
        module, rest = _split(scope.removeprefix(f"{root}/"), root)
        if module in ("fc", "AuxLogits", "bottleneck"):
            places[scope] = f"{module}.{_aux_layer(rest)}" if module == "AuxLogits" else module
        elif module.startswith("block") and rest == "Conv2d_1x1":
            places[scope] = f"{module}.up"
        else:
            modules.setdefault(module, []).append((_sort_key(rest), scope))
    ours = _convolutions(layers)
    for module, found in modules.items():
        # If a convolution is missing, it is unknown which one, so the module stays untranslated.
        if len(found) == len(ours.get(module, ())):
            places |= dict(zip((scope for _, scope in sorted(found)), ours[module], strict=True))
    return places


def _split(scope: str, root: str) -> tuple[str, str]:
    """Splits a layer's scope into the path of the model's module and the scope inside it.

    `scope` is without the network's scope, which is `root`, such as "InceptionV3".
    """
    parts = scope.split("/")
    if parts[0] == "Logits":
        return "fc", ""
    if parts[0] == "Bottleneck":
        return "bottleneck", ""
    block = re.fullmatch(r"Repeat(?:_\d)?/(block\d+)_(\d+)(?:/(.+))?", scope)
    if block:
        return f"{block[1]}.{int(block[2]) - 1}", block[3] or ""
    if parts[0] == "Block8":
        return f"block8.{5 if root == 'InceptionResnetV1' else 9}", "/".join(parts[1:])
    return _MODULES.get(root, {}).get(parts[0], parts[0]), "/".join(parts[1:])


def _aux_layer(rest: str) -> str:
    return {"Conv2d_1b": "conv0", "Conv2d_2a": "conv1"}.get(rest[:9], "fc")


def _sort_key(rest: str) -> tuple[str, str, str]:
    """Returns the branch, step and window in the scope of a convolution.

    `rest` is the part of the scope inside the module. For `Branch_1/Conv2d_0b_3x3`, the result is
    ("Branch_1", "0b", "3x3").
    """
    branch, _, conv = rest.rpartition("/")
    match = re.search(r"(?:_(\d[a-z]))?_(\d+x\d+)$", conv)
    return (branch, match[1] or "", match[2]) if match else (branch, "", conv)


def _convolutions(layers: Sequence[str]) -> Mapping[str, list[str]]:
    """Maps each module of the model to the paths of its convolutions, in order of definition.

    `layers` are the paths of all layers of the model, in the same order. A module is named by the
    first part of these paths, or by the first two if it is a block such as `block35.0`.
    """
    found: dict[str, list[str]] = {}
    for path in _paths(layers):
        block = re.match(r"block\d+\.\d+", path)
        found.setdefault(block[0] if block else path.partition(".")[0], []).append(path)
    return found


def _paths(layers: Sequence[str]) -> Iterator[str]:
    for path in layers:
        parent = path.rpartition(".")[0]
        if path.startswith("AuxLogits"):
            continue
        if path.endswith(".conv"):
            yield parent
        elif path.endswith(".depthwise"):
            yield f"{parent}.separable"

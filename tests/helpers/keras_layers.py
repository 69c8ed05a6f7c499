"""Lists the layers of Keras' networks, and converts tensors to Keras' names and axis order."""

from __future__ import annotations

import numpy as np

# Layers in the order of `model.layers` in Keras 3.3 and 3.15. A number n stands for conv2d_n
# and the BatchNorm of the same number that follows. Numbers are in the order of creation.
V3_LAYERS = """
0 1 2 3 4 8 6 9 5 7 10 11 15 13 16 12 14 17 18 22 20 23 19 21 24 25 27 28 26 29
34 35 31 36 32 37 30 33 38 39 44 45 41 46 42 47 40 43 48 49 54 55 51 56 52 57 50 53 58 59
64 65 61 66 62 67 60 63 68 69 72 73 70 74 71 75 80 77 81 78 79 82 83 76 84 89 86 90 87 88 91 92
85 93""".split()


def _pattern(first: int, order: list[int], block: str, count: int) -> list[str]:
    width = max(order) + 1
    return [
        name
        for i in range(count)
        for name in [*(str(first + width * i + j) for j in order), f"{block}_{i + 1}_conv"]
    ]


RESNET_LAYERS = [
    *"0 1 2 3 4 8 6 9 5 7 10 11".split(),
    *_pattern(12, [3, 1, 4, 0, 2, 5], "block35", 10),
    *"73 74 72 75".split(),
    *_pattern(76, [1, 2, 0, 3], "block17", 20),
    *"160 156 158 161 157 159 162".split(),
    *_pattern(163, [1, 2, 0, 3], "block8", 10),
    "conv_7b",
]
_SHORTCUTS = {2: 0, 3: 1, 4: 2, 13: 3}  # block: number in its shortcut's automatic name


def xception_layers() -> list[tuple[str, str, str]]:
    """Lists the layers of Keras' Xception that have parameters, in the order of `model.layers`.

    Returns:
        A tuple for each layer, such as ("conv2d", "conv2d_3", "block13.residual.conv"): its class
        in Keras, its name in Keras, and its path in the PyTorch twin.
    """
    layers = []
    for i in (1, 2):
        layers.append(("conv2d", f"block1_conv{i}", f"block1_conv{i}.conv"))
        layers.append(("batch_normalization", f"block1_conv{i}_bn", f"block1_conv{i}.bn"))
    for block in range(2, 15):
        for i in (1, 2, 3) if 5 <= block <= 12 else (1, 2):
            joint = "_" if block == 14 else "."
            path, name = f"block{block}{joint}sepconv{i}", f"block{block}_sepconv{i}"
            layers.append(("separable_conv2d", name, path))
            layers.append(("batch_normalization", f"{name}_bn", f"{path}.bn"))
        if block in _SHORTCUTS:
            n, path = _SHORTCUTS[block], f"block{block}.residual"
            layers.append(("conv2d", f"conv2d_{n}", f"{path}.conv"))
            layers.append(("batch_normalization", f"batch_normalization_{n}", f"{path}.bn"))
    return [*layers, ("dense", "predictions", "fc")]


def inception_layers(listed: list[str], twin) -> list[tuple[str, str, str]]:
    """Lists the layers with parameters of Keras' InceptionV3 or InceptionResNetV2.

    The n-th convolution that Keras creates is the twin's n-th convolution.

    Args:
        listed: layers in the order of Keras' `model.layers`: `V3_LAYERS` or `RESNET_LAYERS`.
        twin: PyTorch twin of the network, Inception V3 or Inception-ResNet-v2.

    Returns:
        A tuple for each layer, such as ("conv2d", "conv2d_5", "Mixed_5b.branch1x1.conv"): its class
        in Keras, its name in Keras, and its path in the PyTorch twin.
    """
    paths = [name for name, _ in twin.named_modules()]
    made = [p for p in paths if p.endswith(".conv") and not p.startswith(("Aux", "Conv2d_7b"))]
    layers = []
    for name in listed:
        if name.isdigit():
            path = made[int(name)]
            layers.append(("conv2d", f"conv2d_{name}", path))
            bn = f"{path.removesuffix('.conv')}.bn"
            layers.append(("batch_normalization", f"batch_normalization_{name}", bn))
        elif name == "conv_7b":
            layers.append(("conv2d", name, "Conv2d_7b_1x1.conv"))
            layers.append(("batch_normalization", "conv_7b_bn", "Conv2d_7b_1x1.bn"))
        else:
            block, number, _ = name.split("_")
            layers.append(("conv2d", name, f"{block}.{int(number) - 1}.up"))
    return [*layers, ("dense", "predictions", "fc")]


def keras_tensors(kind: str, path: str, state: dict[str, np.ndarray], gamma: bool) -> dict:
    """Returns a layer's tensors in Keras' order, by Keras' names and with Keras' axis order.

    Args:
        kind: Keras class of the layer, such as "conv2d".
        path: path of the layer in the PyTorch twin.
        state: the twin's tensors by name.
        gamma: whether BatchNorm has a scale.
    """
    if kind == "batch_normalization":
        names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
        names["moving_variance"] = "running_var"
        return {k: state[f"{path}.{v}"] for k, v in names.items() if gamma or k != "gamma"}
    if kind == "separable_conv2d":
        return {
            "depthwise_kernel": state[f"{path}.depthwise.weight"].transpose(2, 3, 0, 1),
            "pointwise_kernel": state[f"{path}.pointwise.weight"].transpose(2, 3, 1, 0),
        }
    weight = state[f"{path}.weight"]
    tensors = {"kernel": weight.T if kind == "dense" else weight.transpose(2, 3, 1, 0)}
    return tensors | ({"bias": state[f"{path}.bias"]} if f"{path}.bias" in state else {})


def later(name: str) -> str:
    """Returns the name that a layer has in the second model that a process builds.

    Keras continues the numbers in automatic names, so that more of them have three digits.
    """
    prefix, _, number = name.rpartition("_")
    automatic = prefix in ("conv2d", "batch_normalization")
    return f"{prefix}_{int(number) + 94}" if automatic else name

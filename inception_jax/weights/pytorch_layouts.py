"""The names of published PyTorch files, as rules from their beginnings to the twin's.

A rule is a regular expression for the beginning of a name and what stands there in the twin; the
first that fits is applied. A name that fits none stays as it is, and is reported as unexpected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

Tensors = dict[str, np.ndarray]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def renamed(tensors: Tensors, rules: Sequence[Rule]) -> Tensors:
    """Applies to each name the first rule whose pattern it begins with."""
    return {_rename(name, rules): tensor for name, tensor in tensors.items()}


def _rename(name: str, rules: Sequence[Rule]) -> str:
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub(rf"^(?:{pattern})", replacement, name, count=1)
    return name


def _branches(theirs: str, ours: str, *names: str) -> list[Rule]:
    """Their `branch0`, `branch1`, ... under the names of our branches.

    A branch of several layers is a sequence there, and numbered from 1 here; a pool is its layer 0.
    """
    rules: list[Rule] = []
    for i, name in enumerate(names):
        if name == "branch_pool":
            rules.append((rf"{theirs}\.branch{i}\.1\.", rf"{ours}.branch_pool."))
        else:
            rules.append((rf"{theirs}\.branch{i}\.(?P<layer>\d)\.", _numbered(ours, name)))
            rules.append((rf"{theirs}\.branch{i}\.", rf"{ours}.{name}."))
    return rules


def _numbered(ours: str, name: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match.expand(ours) + f".{name}_{int(match['layer']) + 1}."


_GOOGLENET: list[Rule] = [
    (r"(inception\d\w)\.branch1\.", r"\1.branch1x1."),
    (r"(inception\d\w)\.branch2\.0\.", r"\1.branch3x3_1."),
    (r"(inception\d\w)\.branch2\.1\.", r"\1.branch3x3_2."),
    (r"(inception\d\w)\.branch3\.0\.", r"\1.branch5x5_1."),
    (r"(inception\d\w)\.branch3\.1\.", r"\1.branch5x5_2."),
    (r"(inception\d\w)\.branch4\.1\.", r"\1.branch_pool."),
]

_BN_INCEPTION_STEM = {"1_7x7_s2": "1", "2_3x3_reduce": "2", "2_3x3": "3"}
_BN_INCEPTION_LAYERS = {
    "1x1": "branch1x1",
    "3x3_reduce": "branch3x3_1",
    "3x3": "branch3x3_2",
    "double_3x3_reduce": "branch3x3dbl_1",
    "double_3x3_1": "branch3x3dbl_2",
    "double_3x3_2": "branch3x3dbl_3",
    "pool_proj": "branch_pool",
}
_BN_INCEPTION: list[Rule] = [
    *(
        (rf"conv{theirs}(_bn)?\.", lambda m, n=ours: f"conv{n}.{'bn' if m[1] else 'conv'}.")
        for theirs, ours in _BN_INCEPTION_STEM.items()
    ),
    *(
        (
            rf"inception_(\d\w)_{theirs}(_bn)?\.",
            lambda m, name=ours: f"inception{m[1]}.{name}.{'bn' if m[2] else 'conv'}.",
        )
        for theirs, ours in _BN_INCEPTION_LAYERS.items()
    ),
    (r"last_linear\.", "fc."),
]

_V4_STAGES = [
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "Mixed_3a",
    "Mixed_4a",
    "Mixed_5a",
    "Mixed_5b",
    "Mixed_5c",
    "Mixed_5d",
    "Mixed_5e",
    "Mixed_6a",
    "Mixed_6b",
    "Mixed_6c",
    "Mixed_6d",
    "Mixed_6e",
    "Mixed_6f",
    "Mixed_6g",
    "Mixed_6h",
    "Mixed_7a",
    "Mixed_7b",
    "Mixed_7c",
    "Mixed_7d",
]
_V4_BRANCHES = {
    "Mixed_4a": ("branch3x3", "branch7x7"),
    **dict.fromkeys(_V4_STAGES[6:10], ("branch1x1", "branch3x3", "branch3x3dbl", "branch_pool")),
    "Mixed_6a": ("branch3x3", "branch3x3dbl"),
    **dict.fromkeys(_V4_STAGES[11:18], ("branch1x1", "branch7x7", "branch7x7dbl", "branch_pool")),
    "Mixed_7a": ("branch3x3", "branch7x7x3"),
}
_V4: list[Rule] = [
    (r"features\.3\.conv\.", "Mixed_3a.branch3x3."),
    (r"features\.5\.conv\.", "Mixed_5a.branch3x3."),
    *(
        rule
        for stage, names in _V4_BRANCHES.items()
        for rule in _branches(rf"features\.{_V4_STAGES.index(stage)}", stage, *names)
    ),
    *(
        (rf"features\.{number}\.branch{theirs}\.", f"{_V4_STAGES[number]}.{ours}.")
        for number in (19, 20, 21)
        for theirs, ours in {
            "0": "branch1x1",
            "1_0": "branch3x3_1",
            "1_1a": "branch3x3_2a",
            "1_1b": "branch3x3_2b",
            "2_0": "branch3x3dbl_1",
            "2_1": "branch3x3dbl_2",
            "2_2": "branch3x3dbl_3",
            "2_3a": "branch3x3dbl_4a",
            "2_3b": "branch3x3dbl_4b",
            r"3\.1": "branch_pool",
        }.items()
    ),
    *((rf"features\.{number}\.", f"{_V4_STAGES[number]}.") for number in (0, 1, 2)),
    (r"last_linear\.", "fc."),
]

_RESNET_STEM: list[Rule] = [
    (r"conv2d_(1a|2a|2b|4a|4b)\.", r"Conv2d_\1_3x3."),
    (r"conv2d_(3b|7b)\.", r"Conv2d_\1_1x1."),
]


def _residual(theirs: str, ours: str, *names: str) -> list[Rule]:
    return [*_branches(theirs, ours, *names), (rf"{theirs}\.conv2d\.", f"{ours}.up.")]


_REDUCTION_A = _branches("mixed_6a", "Mixed_6a", "branch3x3", "branch3x3dbl")
_REDUCTION_B = _branches("mixed_7a", "Mixed_7a", "branch3x3a", "branch3x3b", "branch3x3dbl")

_RESNET_V1: list[Rule] = [
    *_RESNET_STEM,
    *_residual(r"repeat_1\.(\d+)", r"block35.\1", "branch1x1", "branch3x3", "branch3x3dbl"),
    *_REDUCTION_A,
    *_residual(r"repeat_2\.(\d+)", r"block17.\1", "branch1x1", "branch7x7"),
    *_REDUCTION_B,
    *_residual(r"repeat_3\.(\d+)", r"block8.\1", "branch1x1", "branch3x3"),
    *_residual("block8", "block8.5", "branch1x1", "branch3x3"),
    (r"last_linear\.", "bottleneck."),
    (r"last_bn\.", "bottleneck_bn."),
    (r"logits\.", "fc."),
]

_RESNET_V2: list[Rule] = [
    *_RESNET_STEM,
    *_branches("mixed_5b", "Mixed_5b", "branch1x1", "branch5x5", "branch3x3dbl", "branch_pool"),
    *_residual(r"repeat\.(\d+)", r"block35.\1", "branch1x1", "branch3x3", "branch3x3dbl"),
    *_REDUCTION_A,
    *_residual(r"repeat_1\.(\d+)", r"block17.\1", "branch1x1", "branch7x7"),
    *_REDUCTION_B,
    *_residual(r"repeat_2\.(\d+)", r"block8.\1", "branch1x1", "branch3x3"),
    *_residual("block8", "block8.9", "branch1x1", "branch3x3"),
    (r"(classif|last_linear)\.", "fc."),
]

_ALIGNED: list[Rule] = [
    (r"stem\.0\.", "conv1."),
    (r"stem\.1\.conv\.", "conv2.conv."),
    (r"stem\.1\.bn\.", "conv2.bn."),
    (r"stem\.1\.", "conv2."),
    (r"(\w+_flow\.\d+)\.shortcut\.conv\.", r"\1.shortcut."),
    (r"(\w+_flow\.\d+)\.shortcut\.bn\.", r"\1.shortcut_bn."),
    (r"(\w+_flow\.\d+)\.stack\.conv(\d)\.conv_dw\.", r"\1.sepconv\2.depthwise."),
    (r"(\w+_flow\.\d+)\.stack\.conv(\d)\.bn_dw\.", r"\1.sepconv\2.bn_depthwise."),
    (r"(\w+_flow\.\d+)\.stack\.conv(\d)\.conv_pw\.", r"\1.sepconv\2.pointwise."),
    (r"(\w+_flow\.\d+)\.stack\.conv(\d)\.bn_pw\.", r"\1.sepconv\2.bn_pointwise."),
    (r"head\.fc\.", "fc."),
]
_ALIGNED_PREACT: list[Rule] = [
    (r"(\w+_flow\.\d+)\.norm\.", r"\1.norm1."),
    (r"(\w+_flow\.\d+)\.stack\.conv(\d)\.norm\.", r"\1.norm\2."),
    (r"(\w+_flow\.\d+)\.stack\.conv(\d)\.conv_dw\.", r"\1.depthwise\2."),
    (r"(\w+_flow\.\d+)\.stack\.conv(\d)\.conv_pw\.", r"\1.pointwise\2."),
    *_ALIGNED,
]

_NEXT: list[Rule] = [
    (r"stem\.0\.", "stem.conv."),
    (r"stem\.1\.", "stem.norm."),
    (r"(stages\.\d)\.downsample\.0\.", r"\1.downsample.norm."),
    (r"(stages\.\d)\.downsample\.1\.", r"\1.downsample.conv."),
]


def googlenet(tensors: Tensors) -> Tensors:
    """torchvision `googlenet`."""
    return renamed(tensors, _GOOGLENET)


def bn_inception(tensors: Tensors) -> Tensors:
    """Cadene `bninception`, whose published file has BatchNorm's vectors as [1, c]."""
    flat = {
        name: tensor.reshape(-1) if "_bn." in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }
    return renamed(flat, _BN_INCEPTION)


def inception_v4(tensors: Tensors) -> Tensors:
    """timm and Cadene `inceptionv4`: stages are numbered, `features.0` to `features.21`."""
    return renamed(tensors, _V4)


def inception_resnet_v1(tensors: Tensors) -> Tensors:
    """facenet-pytorch `InceptionResnetV1`."""
    return renamed(tensors, _RESNET_V1)


def inception_resnet_v2(tensors: Tensors) -> Tensors:
    """timm `inception_resnet_v2` and Cadene `inceptionresnetv2`."""
    return renamed(tensors, _RESNET_V2)


def xception_aligned(tensors: Tensors) -> Tensors:
    """timm `xception41`, `65`, `71`."""
    return renamed(_by_flow(tensors), _ALIGNED)


def xception_aligned_preact(tensors: Tensors) -> Tensors:
    """timm `xception41p`, `65p`."""
    return renamed(_by_flow(tensors), _ALIGNED_PREACT)


def _by_flow(tensors: Tensors) -> Tensors:
    """Their blocks have one count; ours begin anew in each flow, of which the last has two blocks.

    Only xception71, of 23 blocks, has an entry flow of five; the others have three.
    """
    count = 1 + max(int(m[1]) for m in (re.match(r"blocks\.(\d+)\.", n) for n in tensors) if m)
    entry = 5 if count == 23 else 3

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        if number < entry:
            return f"entry_flow.{number}."
        if number < count - 2:
            return f"middle_flow.{number - entry}."
        return f"exit_flow.{number - count + 2}."

    return renamed(tensors, [(r"blocks\.(\d+)\.", place)])


def inception_next(tensors: Tensors) -> Tensors:
    """timm and sail-sg `inception_next_*`."""
    return renamed(tensors, _NEXT)

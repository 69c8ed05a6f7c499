"""What our tensors are called in published PyTorch and Caffe files.

A rule is a regular expression for the beginning of one of our names and what stands there in the
file; the first that fits is applied, and a name that fits none is the same in both. Reading and
writing use the same rules, so what is written can be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

Names = dict[str, str]
"""Ours to theirs."""
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def renamed(names: Iterable[str], rules: Sequence[Rule]) -> Names:
    """Applies to each name the first rule whose pattern it begins with."""
    return {name: _rename(name, rules) for name in names}


def _rename(name: str, rules: Sequence[Rule]) -> str:
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub(rf"^(?:{pattern})", replacement, name, count=1)
    return name


def _branches(ours: str, theirs: str, *names: str) -> list[Rule]:
    """Our branches by the names in their order, as their `branch0`, `branch1`, ...

    A branch of several layers is a sequence there, and numbered from 1 here; a pool is its layer 0.
    """
    rules: list[Rule] = []
    for i, name in enumerate(names):
        if name == "branch_pool":
            rules.append((rf"{ours}\.branch_pool\.", rf"{theirs}.branch{i}.1."))
        else:
            rules.append((rf"{ours}\.{name}_(?P<layer>\d)\.", _numbered(f"{theirs}.branch{i}")))
            rules.append((rf"{ours}\.{name}\.", rf"{theirs}.branch{i}."))
    return rules


def _numbered(theirs: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match.expand(theirs) + f".{int(match['layer']) - 1}."


_GOOGLENET: list[Rule] = [
    (r"(inception\d\w)\.branch1x1\.", r"\1.branch1."),
    (r"(inception\d\w)\.branch3x3_1\.", r"\1.branch2.0."),
    (r"(inception\d\w)\.branch3x3_2\.", r"\1.branch2.1."),
    (r"(inception\d\w)\.branch5x5_1\.", r"\1.branch3.0."),
    (r"(inception\d\w)\.branch5x5_2\.", r"\1.branch3.1."),
    (r"(inception\d\w)\.branch_pool\.", r"\1.branch4.1."),
]

_BVLC_LAYERS = {
    r"conv1\.conv": "conv1/7x7_s2",
    r"conv2\.conv": "conv2/3x3_reduce",
    r"conv3\.conv": "conv2/3x3",
    r"inception(\d\w)\.branch1x1\.conv": r"inception_\1/1x1",
    r"inception(\d\w)\.branch3x3_1\.conv": r"inception_\1/3x3_reduce",
    r"inception(\d\w)\.branch3x3_2\.conv": r"inception_\1/3x3",
    r"inception(\d\w)\.branch5x5_1\.conv": r"inception_\1/5x5_reduce",
    r"inception(\d\w)\.branch5x5_2\.conv": r"inception_\1/5x5",
    r"inception(\d\w)\.branch_pool\.conv": r"inception_\1/pool_proj",
    r"aux(\d)\.conv\.conv": r"loss\1/conv",
    r"aux(\d)\.fc1": r"loss\1/fc",
    r"aux(\d)\.fc2": r"loss\1/classifier",
    r"fc": "loss3/classifier",
}
_BVLC: list[Rule] = [
    *((rf"{ours}\.weight", f"{theirs}/0") for ours, theirs in _BVLC_LAYERS.items()),
    *((rf"{ours}\.bias", f"{theirs}/1") for ours, theirs in _BVLC_LAYERS.items()),
]

_BN_INCEPTION_LAYERS = {
    r"conv1": r"conv1_7x7_s2",
    r"conv2": r"conv2_3x3_reduce",
    r"conv3": r"conv2_3x3",
    r"inception(\d\w)\.branch1x1": r"inception_\1_1x1",
    r"inception(\d\w)\.branch3x3_1": r"inception_\1_3x3_reduce",
    r"inception(\d\w)\.branch3x3_2": r"inception_\1_3x3",
    r"inception(\d\w)\.branch3x3dbl_1": r"inception_\1_double_3x3_reduce",
    r"inception(\d\w)\.branch3x3dbl_2": r"inception_\1_double_3x3_1",
    r"inception(\d\w)\.branch3x3dbl_3": r"inception_\1_double_3x3_2",
    r"inception(\d\w)\.branch_pool": r"inception_\1_pool_proj",
}
_BN_INCEPTION: list[Rule] = [
    *((rf"{ours}\.conv\.", f"{theirs}.") for ours, theirs in _BN_INCEPTION_LAYERS.items()),
    *((rf"{ours}\.bn\.", f"{theirs}_bn.") for ours, theirs in _BN_INCEPTION_LAYERS.items()),
    (r"fc\.", "last_linear."),
]

# Their blocks are one less than ours. Inside `rep`, ReLUs count as layers: a block that opens with
# one has its convolutions at 1, 4, 7, the first block at 0, 3; a BatchNorm follows each.
_XCEPTION: list[Rule] = [
    (r"block1_conv(\d)\.conv\.", r"conv\1."),
    (r"block1_conv(\d)\.bn\.", r"bn\1."),
    (r"block(\d+)\.residual\.conv\.", lambda match: f"block{int(match[1]) - 1}.skip."),
    (r"block(\d+)\.residual\.bn\.", lambda match: f"block{int(match[1]) - 1}.skipbn."),
    (r"block(\d+)\.sepconv(\d)\.depthwise\.", lambda match: f"{_rep(match)}.conv1."),
    (r"block(\d+)\.sepconv(\d)\.pointwise\.", lambda match: f"{_rep(match)}.pointwise."),
    (r"block(\d+)\.sepconv(\d)\.bn\.", lambda match: f"{_rep(match, 1)}."),
    (r"block14_sepconv(\d)\.depthwise\.", lambda match: f"conv{int(match[1]) + 2}.conv1."),
    (r"block14_sepconv(\d)\.pointwise\.", lambda match: f"conv{int(match[1]) + 2}.pointwise."),
    (r"block14_sepconv(\d)\.bn\.", lambda match: f"bn{int(match[1]) + 2}."),
]


def _rep(match: re.Match[str], offset: int = 0) -> str:
    block, layer = int(match[1]) - 1, int(match[2])
    return f"block{block}.rep.{3 * layer - 2 - (block == 1) + offset}"


_V4_STAGES: list[str] = [
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Mixed_3a", "Mixed_4a", "Mixed_5a"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_5e"),
    *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_6f", "Mixed_6g"),
    *("Mixed_6h", "Mixed_7a", "Mixed_7b", "Mixed_7c", "Mixed_7d"),
]
_V4_BRANCHES = {
    "Mixed_4a": ("branch3x3", "branch7x7"),
    **dict.fromkeys(_V4_STAGES[6:10], ("branch1x1", "branch3x3", "branch3x3dbl", "branch_pool")),
    "Mixed_6a": ("branch3x3", "branch3x3dbl"),
    **dict.fromkeys(_V4_STAGES[11:18], ("branch1x1", "branch7x7", "branch7x7dbl", "branch_pool")),
    "Mixed_7a": ("branch3x3", "branch7x7x3"),
}
_V4_INCEPTION_C = {
    "branch1x1": "branch0",
    "branch3x3_1": "branch1_0",
    "branch3x3_2a": "branch1_1a",
    "branch3x3_2b": "branch1_1b",
    "branch3x3dbl_1": "branch2_0",
    "branch3x3dbl_2": "branch2_1",
    "branch3x3dbl_3": "branch2_2",
    "branch3x3dbl_4a": "branch2_3a",
    "branch3x3dbl_4b": "branch2_3b",
    "branch_pool": "branch3.1",
}
_V4: list[Rule] = [
    (r"Mixed_3a\.branch3x3\.", "features.3.conv."),
    (r"Mixed_5a\.branch3x3\.", "features.5.conv."),
    *(
        rule
        for stage, names in _V4_BRANCHES.items()
        for rule in _branches(stage, f"features.{_V4_STAGES.index(stage)}", *names)
    ),
    *(
        (rf"{_V4_STAGES[i]}\.{ours}\.", f"features.{i}.{theirs}.")
        for i in (19, 20, 21)
        for ours, theirs in _V4_INCEPTION_C.items()
    ),
    *((rf"{_V4_STAGES[i]}\.", f"features.{i}.") for i in (0, 1, 2)),
    (r"fc\.", "last_linear."),
]

_RESNET_STEM: list[Rule] = [(r"Conv2d_(\d\w)_\dx\d\.", r"conv2d_\1.")]


def _residual(ours: str, theirs: str, *names: str) -> list[Rule]:
    return [*_branches(ours, theirs, *names), (rf"{ours}\.up\.", rf"{theirs}.conv2d.")]


_REDUCTION_A = _branches("Mixed_6a", "mixed_6a", "branch3x3", "branch3x3dbl")
_REDUCTION_B = _branches("Mixed_7a", "mixed_7a", "branch3x3a", "branch3x3b", "branch3x3dbl")

_RESNET_V1: list[Rule] = [
    *_RESNET_STEM,
    *_residual(r"block35\.(\d+)", r"repeat_1.\1", "branch1x1", "branch3x3", "branch3x3dbl"),
    *_REDUCTION_A,
    *_residual(r"block17\.(\d+)", r"repeat_2.\1", "branch1x1", "branch7x7"),
    *_REDUCTION_B,
    *_residual(r"block8\.5", "block8", "branch1x1", "branch3x3"),
    *_residual(r"block8\.(\d+)", r"repeat_3.\1", "branch1x1", "branch3x3"),
    (r"bottleneck\.", "last_linear."),
    (r"bottleneck_bn\.", "last_bn."),
    (r"fc\.", "logits."),
]

_RESNET_V2: list[Rule] = [
    *_RESNET_STEM,
    *_branches("Mixed_5b", "mixed_5b", "branch1x1", "branch5x5", "branch3x3dbl", "branch_pool"),
    *_residual(r"block35\.(\d+)", r"repeat.\1", "branch1x1", "branch3x3", "branch3x3dbl"),
    *_REDUCTION_A,
    *_residual(r"block17\.(\d+)", r"repeat_1.\1", "branch1x1", "branch7x7"),
    *_REDUCTION_B,
    *_residual(r"block8\.9", "block8", "branch1x1", "branch3x3"),
    *_residual(r"block8\.(\d+)", r"repeat_2.\1", "branch1x1", "branch3x3"),
    (r"fc\.", "classif."),
]

_ALIGNED_COMMON: list[Rule] = [
    (r"conv1\.", "stem.0."),
    (r"conv2\.", "stem.1."),
    (r"fc\.", "head.fc."),
]
_ALIGNED: list[Rule] = [
    (r"(\w+_flow\.\d+)\.shortcut\.", r"\1.shortcut.conv."),
    (r"(\w+_flow\.\d+)\.shortcut_bn\.", r"\1.shortcut.bn."),
    (r"(\w+_flow\.\d+)\.sepconv(\d)\.depthwise\.", r"\1.stack.conv\2.conv_dw."),
    (r"(\w+_flow\.\d+)\.sepconv(\d)\.bn_depthwise\.", r"\1.stack.conv\2.bn_dw."),
    (r"(\w+_flow\.\d+)\.sepconv(\d)\.pointwise\.", r"\1.stack.conv\2.conv_pw."),
    (r"(\w+_flow\.\d+)\.sepconv(\d)\.bn_pointwise\.", r"\1.stack.conv\2.bn_pw."),
    *_ALIGNED_COMMON,
]
_ALIGNED_PREACT: list[Rule] = [
    (r"(\w+_flow\.\d+)\.norm1\.", r"\1.norm."),
    (r"(\w+_flow\.\d+)\.norm(\d)\.", r"\1.stack.conv\2.norm."),
    (r"(\w+_flow\.\d+)\.depthwise(\d)\.", r"\1.stack.conv\2.conv_dw."),
    (r"(\w+_flow\.\d+)\.pointwise(\d)\.", r"\1.stack.conv\2.conv_pw."),
    *_ALIGNED_COMMON,
]

_NEXT: list[Rule] = [
    (r"stem\.conv\.", "stem.0."),
    (r"stem\.norm\.", "stem.1."),
    (r"(stages\.\d)\.downsample\.norm\.", r"\1.downsample.0."),
    (r"(stages\.\d)\.downsample\.conv\.", r"\1.downsample.1."),
]


def same(names: Iterable[str]) -> Names:
    """torchvision and timm `inception_v3`, pytorch-fid: ours are theirs."""
    return {name: name for name in names}


def googlenet(names: Iterable[str]) -> Names:
    """torchvision `googlenet`."""
    return renamed(names, _GOOGLENET)


def googlenet_bvlc(names: Iterable[str]) -> Names:
    """Caffe `bvlc_googlenet`, whose tensors have a layer and a number."""
    return renamed(names, _BVLC)


def bn_inception(names: Iterable[str]) -> Names:
    """Cadene `bninception`."""
    return renamed(names, _BN_INCEPTION)


def xception(names: Iterable[str]) -> Names:
    """timm `legacy_xception` and Cadene `xception`."""
    return renamed(names, _XCEPTION)


def inception_v4(names: Iterable[str]) -> Names:
    """timm and Cadene `inceptionv4`: stages are numbered, `features.0` to `features.21`."""
    return renamed(names, _V4)


def inception_resnet_v1(names: Iterable[str]) -> Names:
    """facenet-pytorch `InceptionResnetV1`."""
    return renamed(names, _RESNET_V1)


def inception_resnet_v2(names: Iterable[str]) -> Names:
    """timm `inception_resnet_v2` and Cadene `inceptionresnetv2`."""
    return renamed(names, _RESNET_V2)


def xception_aligned(names: Iterable[str]) -> Names:
    """timm `xception41`, `65`, `71`."""
    return _counted_through(renamed(names, _ALIGNED))


def xception_aligned_preact(names: Iterable[str]) -> Names:
    """timm `xception41p`, `65p`."""
    return _counted_through(renamed(names, _ALIGNED_PREACT))


def _counted_through(names: Names) -> Names:
    """Their blocks have one count through all flows; ours begin anew in each."""
    found = {m[0] for m in (re.match(r"\w+_flow\.\d+\.", name) for name in names.values()) if m}
    flows = ("entry", "middle", "exit")
    blocks = sorted(found, key=lambda b: (flows.index(b.partition("_")[0]), int(b.split(".")[1])))
    rules: list[Rule] = [(re.escape(block), f"blocks.{i}.") for i, block in enumerate(blocks)]
    return {name: _rename(theirs, rules) for name, theirs in names.items()}


def inception_next(names: Iterable[str]) -> Names:
    """timm and sail-sg `inception_next_*`."""
    return renamed(names, _NEXT)

"""Names of the PyTorch twins' tensors in published PyTorch and Caffe files.

A rule is a pair: a regular expression for the beginning of a twin's name, and the beginning of the
name in the file, as a string or as a function of the match. The first rule that matches is applied.
A name that matches no rule stays unchanged. Reading and writing use the same rules, so every
written file can be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

Names = dict[str, str]
"""The twin's tensor names, mapped to the names in the file."""
Renaming = Callable[[Iterable[str]], Names]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def _renaming(*rules: Rule) -> Renaming:
    return lambda names: {name: _renamed(name, rules) for name in names}


def _renamed(name: str, rules: Iterable[Rule]) -> str:
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub(rf"^(?:{pattern})", replacement, name, count=1)
    return name


def _layers(names: dict[str, str], *endings: tuple[str, str]) -> list[Rule]:
    """Returns rules for all combinations of layers and endings of tensor names.

    Args:
        names: names of layers in the twin, mapped to those in the file.
        *endings: pairs of an ending in the twin and the ending in the file.
    """
    return [
        (rf"{ours}\.{ending}", f"{theirs}{there}")
        for ending, there in endings
        for ours, theirs in names.items()
    ]


def _branches(ours: str, theirs: str, *names: str) -> list[Rule]:
    """Returns rules that rename the branches of a module, in order, to `branch0`, `branch1`, ...

    The layers of a branch are numbered from 0 in the file, and from 1 in the twin. A pool is layer
    0 of its branch in the file, so the convolution after the pool is layer 1.

    Args:
        ours: name of the module in the twin.
        theirs: name of the module in the file.
        *names: names of the branches in the twin.
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


same = _renaming()
"""torchvision and timm `inception_v3`, pytorch-fid."""

googlenet = _renaming(
    (r"(inception\d\w)\.branch1x1\.", r"\1.branch1."),
    (r"(inception\d\w)\.branch3x3_1\.", r"\1.branch2.0."),
    (r"(inception\d\w)\.branch3x3_2\.", r"\1.branch2.1."),
    (r"(inception\d\w)\.branch5x5_1\.", r"\1.branch3.0."),
    (r"(inception\d\w)\.branch5x5_2\.", r"\1.branch3.1."),
    (r"(inception\d\w)\.branch_pool\.", r"\1.branch4.1."),
)
"""torchvision `googlenet`."""

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
googlenet_bvlc = _renaming(*_layers(_BVLC_LAYERS, ("weight", "/0"), ("bias", "/1")))
"""Caffe `bvlc_googlenet`, whose tensors have a layer and a number."""

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
bn_inception = _renaming(
    *_layers(_BN_INCEPTION_LAYERS, (r"conv\.", "."), (r"bn\.", "_bn.")), (r"fc\.", "last_linear.")
)
"""Cadene `bninception`."""


def _rep(match: re.Match[str], offset: int = 0) -> str:
    block, layer = int(match[1]) - 1, int(match[2])
    return f"block{block}.rep.{3 * layer - 2 - (block == 1) + offset}"


# The file's block numbers are one less than the twin's. ReLUs count as layers inside `rep`: a block
# that begins with a ReLU has its convolutions at 1, 4 and 7, the first block at 0 and 3. A
# BatchNorm follows each convolution.
xception = _renaming(
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
)
"""timm `legacy_xception` and Cadene `xception`."""

_V4_STAGES = [
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Mixed_3a", "Mixed_4a"),
    *(f"Mixed_5{letter}" for letter in "abcde"),
    *(f"Mixed_6{letter}" for letter in "abcdefgh"),
    *(f"Mixed_7{letter}" for letter in "abcd"),
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
inception_v4 = _renaming(
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
)
"""timm and Cadene `inceptionv4`: stages are numbered, `features.0` to `features.21`."""


def _resnet(repeats: tuple[str, str, str], last: int) -> list[Rule]:
    """Returns the rules that both Inception-ResNets share.

    Args:
        repeats: names in the file of the sequences of block35, block17 and block8.
        last: index of the last block8 in the twin. In the file, this block is outside the sequence.
    """
    block35, block17, block8 = repeats
    return [
        (r"Conv2d_(\d\w)_\dx\d\.", r"conv2d_\1."),
        *_residual(r"block35\.(\d+)", rf"{block35}.\1", "branch1x1", "branch3x3", "branch3x3dbl"),
        *_branches("Mixed_6a", "mixed_6a", "branch3x3", "branch3x3dbl"),
        *_residual(r"block17\.(\d+)", rf"{block17}.\1", "branch1x1", "branch7x7"),
        *_branches("Mixed_7a", "mixed_7a", "branch3x3a", "branch3x3b", "branch3x3dbl"),
        *_residual(rf"block8\.{last}", "block8", "branch1x1", "branch3x3"),
        *_residual(r"block8\.(\d+)", rf"{block8}.\1", "branch1x1", "branch3x3"),
    ]


def _residual(ours: str, theirs: str, *names: str) -> list[Rule]:
    return [*_branches(ours, theirs, *names), (rf"{ours}\.up\.", rf"{theirs}.conv2d.")]


inception_resnet_v1 = _renaming(
    *_resnet(("repeat_1", "repeat_2", "repeat_3"), last=5),
    (r"bottleneck\.", "last_linear."),
    (r"bottleneck_bn\.", "last_bn."),
    (r"fc\.", "logits."),
)
"""facenet-pytorch `InceptionResnetV1`."""

inception_resnet_v2 = _renaming(
    *_resnet(("repeat", "repeat_1", "repeat_2"), last=9),
    *_branches("Mixed_5b", "mixed_5b", "branch1x1", "branch5x5", "branch3x3dbl", "branch_pool"),
    (r"fc\.", "classif."),
)
"""timm `inception_resnet_v2` and Cadene `inceptionresnetv2`."""

_ALIGNED_COMMON: list[Rule] = [
    (r"conv1\.", "stem.0."),
    (r"conv2\.", "stem.1."),
    (r"fc\.", "head.fc."),
]
_aligned = _renaming(
    (r"(\w+_flow\.\d+)\.shortcut\.", r"\1.shortcut.conv."),
    (r"(\w+_flow\.\d+)\.shortcut_bn\.", r"\1.shortcut.bn."),
    (r"(\w+_flow\.\d+)\.sepconv(\d)\.depthwise\.", r"\1.stack.conv\2.conv_dw."),
    (r"(\w+_flow\.\d+)\.sepconv(\d)\.bn_depthwise\.", r"\1.stack.conv\2.bn_dw."),
    (r"(\w+_flow\.\d+)\.sepconv(\d)\.pointwise\.", r"\1.stack.conv\2.conv_pw."),
    (r"(\w+_flow\.\d+)\.sepconv(\d)\.bn_pointwise\.", r"\1.stack.conv\2.bn_pw."),
    *_ALIGNED_COMMON,
)
_aligned_preact = _renaming(
    (r"(\w+_flow\.\d+)\.norm1\.", r"\1.norm."),
    (r"(\w+_flow\.\d+)\.norm(\d)\.", r"\1.stack.conv\2.norm."),
    (r"(\w+_flow\.\d+)\.depthwise(\d)\.", r"\1.stack.conv\2.conv_dw."),
    (r"(\w+_flow\.\d+)\.pointwise(\d)\.", r"\1.stack.conv\2.conv_pw."),
    *_ALIGNED_COMMON,
)


def xception_aligned(names: Iterable[str]) -> Names:
    """Maps the twin's names to those of timm's `xception41`, `xception65` and `xception71`."""
    return _counted_through(_aligned(names))


def xception_aligned_preact(names: Iterable[str]) -> Names:
    """Maps the twin's names to those of timm's `xception41p` and `xception65p`."""
    return _counted_through(_aligned_preact(names))


def _counted_through(names: Names) -> Names:
    """Renumbers the blocks in the file's names.

    The twin numbers blocks from 0 in each flow. In the file, the numbers continue from flow to
    flow: `blocks.0`, `blocks.1`, ...
    """
    found = {m[0] for m in (re.match(r"\w+_flow\.\d+\.", name) for name in names.values()) if m}
    flows = ("entry", "middle", "exit")
    blocks = sorted(found, key=lambda b: (flows.index(b.partition("_")[0]), int(b.split(".")[1])))
    rules: list[Rule] = [(re.escape(block), f"blocks.{i}.") for i, block in enumerate(blocks)]
    return {name: _renamed(theirs, rules) for name, theirs in names.items()}


inception_next = _renaming(
    (r"stem\.conv\.", "stem.0."),
    (r"stem\.norm\.", "stem.1."),
    (r"(stages\.\d)\.downsample\.norm\.", r"\1.downsample.0."),
    (r"(stages\.\d)\.downsample\.conv\.", r"\1.downsample.1."),
)
"""timm and sail-sg `inception_next_*`."""

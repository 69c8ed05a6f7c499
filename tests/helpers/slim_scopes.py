"""Lists the scopes of the convolutions and classifiers of TF-slim's networks and FaceNet.

The original implementations, the papers and our PyTorch twins have the same order of layers. So the
n-th scope belongs to the n-th layer of the twin. `AUX_SCOPES` lists TF-slim's auxiliary
classifiers.
"""

from __future__ import annotations


def module(name: str, *branches: str) -> list[str]:
    """Returns the scopes of a module's convolutions, such as "Mixed_5b/Branch_0/Conv2d_0a_1x1".

    Args:
        name: scope of the module, such as "Mixed_5b".
        *branches: names of each branch's convolutions, such as "0a_1x1 0b_3x3".
    """
    return [
        f"{name}/Branch_{i}/Conv2d_{conv}"
        for i, branch in enumerate(branches)
        for conv in branch.split()
    ]


def modules(stage: int, letters: str, *branches: str) -> list[str]:
    return [s for letter in letters for s in module(f"Mixed_{stage}{letter}", *branches)]


def blocks(scope: str, count: int, *branches: str) -> list[str]:
    names = [f"{scope}_{i + 1}" for i in range(count)] if count else [scope]
    return [s for name in names for s in (*module(name, *branches), f"{name}/Conv2d_1x1")]


_DOUBLE = "0a_1x1 0b_3x3 0c_3x3"
_STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
_EARLY_STEM = ["Conv2d_1a_7x7", "Conv2d_2b_1x1", "Conv2d_2c_3x3"]
_INCEPTION = ("0a_1x1", "0a_1x1 0b_3x3", "0a_1x1 0b_3x3", "0b_1x1")
_INCEPTION_DOUBLE = ("0a_1x1", "0a_1x1 0b_3x3", _DOUBLE, "0b_1x1")
_INCEPTION_7X7 = ("0a_1x1", "0a_1x1 0b_1x7 0c_7x1", "0a_1x1 0b_7x1 0c_1x7 0d_7x1 0e_1x7", "0b_1x1")
_REDUCTION = ("0a_1x1 1a_3x3", "0a_1x1 0b_3x3 1a_3x3")
_REDUCTION_A = ("1a_3x3", "0a_1x1 0b_3x3 1a_3x3")
_REDUCTION_7X7 = ("0a_1x1 1a_3x3", "0a_1x1 0b_1x7 0c_7x1 1a_3x3")
_REDUCTION_B = ("0a_1x1 1a_3x3", "0a_1x1 1a_3x3", "0a_1x1 0b_3x3 1a_3x3")
_BLOCK35 = ("1x1", "0a_1x1 0b_3x3", _DOUBLE)
_BLOCK17 = ("1x1", "0a_1x1 0b_1x7 0c_7x1")
_BLOCK8 = ("1x1", "0a_1x1 0b_1x3 0c_3x1")


def _ends(second: str) -> tuple[str, str, str, str]:
    return "0a_1x1", f"0a_1x1 0b_1x3 {second}", "0a_1x1 0b_3x3 0c_1x3 0d_3x1", "0b_1x1"


SCOPES: dict[str, tuple[str, list[str]]] = {
    "inception_v1.slim_in1k": (
        "InceptionV1",
        [
            *_EARLY_STEM,
            *modules(3, "bc", *_INCEPTION),
            *modules(4, "bcdef", *_INCEPTION),
            # TF-slim is inconsistent here: both convolutions are step a.
            *module("Mixed_5b", "0a_1x1", "0a_1x1 0b_3x3", "0a_1x1 0a_3x3", "0b_1x1"),
            *modules(5, "c", *_INCEPTION),
            "Logits/Conv2d_0c_1x1",
        ],
    ),
    "bn_inception.slim_in1k": (
        "InceptionV2",
        [
            *_EARLY_STEM,
            *modules(3, "bc", *_INCEPTION_DOUBLE),
            *module("Mixed_4a", *_REDUCTION),
            *modules(4, "bcde", *_INCEPTION_DOUBLE),
            *module("Mixed_5a", *_REDUCTION),
            *modules(5, "bc", *_INCEPTION_DOUBLE),
            "Logits/Conv2d_1c_1x1",
        ],
    ),
    "inception_v3.slim_in1k": (
        "InceptionV3",
        [
            *_STEM,
            *module("Mixed_5b", "0a_1x1", "0a_1x1 0b_5x5", _DOUBLE, "0b_1x1"),
            # TF-slim is inconsistent here, in the 1x1 of Mixed_6a and in two steps b of Mixed_7b.
            "Mixed_5c/Branch_0/Conv2d_0a_1x1",
            "Mixed_5c/Branch_1/Conv2d_0b_1x1",
            "Mixed_5c/Branch_1/Conv_1_0c_5x5",
            *(f"Mixed_5c/Branch_2/Conv2d_{step}" for step in _DOUBLE.split()),
            "Mixed_5c/Branch_3/Conv2d_0b_1x1",
            *module("Mixed_5d", "0a_1x1", "0a_1x1 0b_5x5", _DOUBLE, "0b_1x1"),
            *module("Mixed_6a", "1a_1x1", "0a_1x1 0b_3x3 1a_1x1"),
            *modules(6, "bcde", *_INCEPTION_7X7),
            *module("Mixed_7a", *_REDUCTION_7X7),
            *module(
                "Mixed_7b",
                "0a_1x1",
                "0a_1x1 0b_1x3 0b_3x1",
                "0a_1x1 0b_3x3 0c_1x3 0d_3x1",
                "0b_1x1",
            ),
            *module(
                "Mixed_7c",
                "0a_1x1",
                "0a_1x1 0b_1x3 0c_3x1",
                "0a_1x1 0b_3x3 0c_1x3 0d_3x1",
                "0b_1x1",
            ),
            "Logits/Conv2d_1c_1x1",
        ],
    ),
    "inception_v4.slim_in1k": (
        "InceptionV4",
        [
            *_STEM[:3],
            "Mixed_3a/Branch_1/Conv2d_0a_3x3",
            *module("Mixed_4a", "0a_1x1 1a_3x3", "0a_1x1 0b_1x7 0c_7x1 1a_3x3"),
            "Mixed_5a/Branch_0/Conv2d_1a_3x3",
            *modules(5, "bcde", *_INCEPTION_DOUBLE),
            *module("Mixed_6a", *_REDUCTION_A),
            *modules(6, "bcdefgh", *_INCEPTION_7X7),
            *module("Mixed_7a", *_REDUCTION_7X7),
            *modules(
                7,
                "bcd",
                "0a_1x1",
                "0a_1x1 0b_1x3 0c_3x1",
                "0a_1x1 0b_3x1 0c_1x3 0d_1x3 0e_3x1",
                "0b_1x1",
            ),
            "Logits/Logits",
        ],
    ),
    "inception_resnet_v1": (
        "InceptionResnetV1",
        [
            *_STEM,
            "Conv2d_4b_3x3",
            *blocks("Repeat/block35", 5, *_BLOCK35),
            *module("Mixed_6a", *_REDUCTION_A),
            *blocks("Repeat_1/block17", 10, *_BLOCK17),
            *module("Mixed_7a", *_REDUCTION_B),
            *blocks("Repeat_2/block8", 5, *_BLOCK8),
            *blocks("Block8", 0, *_BLOCK8),
            "Bottleneck",
            "Logits",
        ],
    ),
    "inception_resnet_v2.slim_in1k": (
        "InceptionResnetV2",
        [
            *_STEM,
            *module("Mixed_5b", "1x1", "0a_1x1 0b_5x5", _DOUBLE, "0b_1x1"),
            *blocks("Repeat/block35", 10, *_BLOCK35),
            *module("Mixed_6a", *_REDUCTION_A),
            *blocks("Repeat_1/block17", 20, *_BLOCK17),
            *module("Mixed_7a", *_REDUCTION_B),
            *blocks("Repeat_2/block8", 9, *_BLOCK8),
            *blocks("Block8", 0, *_BLOCK8),
            "Conv2d_7b_1x1",
            "Logits/Logits",
        ],
    ),
}
AUX_SCOPES = {
    "inception_v3.slim_in1k": ("Conv2d_1b_1x1", "Conv2d_2a_5x5", "Conv2d_2b_1x1"),
    "inception_v4.slim_in1k": ("Conv2d_1b_1x1", "Conv2d_2a", "Aux_logits"),
    "inception_resnet_v2.slim_in1k": ("Conv2d_1b_1x1", "Conv2d_2a_5x5", "Logits"),
}

"""What a network computes, as a graph of the operations that a paper's figure shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

Kind = Literal[
    "input",
    "conv",
    "linear",
    "max_pool",
    "avg_pool",
    "global_pool",
    "adaptive_pool",
    "concat",
    "add",
    "split",
    "slice",
    "identity",
    "norm",
    "activation",
    "scale",
    "affine",
    "pad",
    "bias",
    "dropout",
    "other",
    "step",
]
"""`simplify` replaces `step` by what the step is, and folds `bias` into the layer before it."""

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Node:
    """An operation.

    Attributes:
        kind: see `Kind`.
        inputs: numbers of the nodes that it takes the results of, in the order of the code.
        shape: of its result, without the batch.
        scope: path of the innermost module that computes it.
        parameter: path of the parameter that it takes; empty if it takes none.
        text: name of an activation or norm, a factor, a dropout rate.
        window: height and width of a window.
        stride: steps of the window.
        dilation: distances between the pixels of a window.
        padding: low and high padding of both axes.
        depthwise: whether a convolution has groups.
        valid: whether a convolution or pool lacks the padding that would keep the map's size.
        counts_padding: whether an average counts the padding at the border.
        parts: sizes of the parts of a split.
        after: what follows a convolution or normalisation in the same layer: "BN", "ReLU".
        primitives: jax's, that a step is made of.
    """

    kind: Kind
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    scope: str = ""
    parameter: str = ""
    text: str = ""
    window: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    depthwise: bool = False
    valid: bool = False
    counts_padding: bool = False
    parts: tuple[int, ...] = ()
    after: tuple[str, ...] = ()
    primitives: frozenset[str] = frozenset()

    @property
    def layer(self) -> str:
        """Path of the module that has its parameter."""
        return parent(self.parameter)


@dataclasses.dataclass(frozen=True)
class Graph:
    """A network.

    Attributes:
        nodes: by number; every node has a greater number than its inputs.
        outputs: the nodes that the network returns: the logits, then those of its auxiliary
            classifiers.
        stages: the node of each map of `features`, by the map's name, in forward order.
        calls: paths of the modules that were called, in the order of the calls.
        modules: class of each module by its path; that of the network by the empty one.
    """

    nodes: Mapping[int, Node]
    outputs: tuple[int, ...]
    stages: Mapping[str, int]
    calls: tuple[str, ...]
    modules: Mapping[str, type]

    def class_name(self, path: str) -> str:
        """Returns the name of a module's class."""
        return self.modules[path].__name__


def parent(path: str) -> str:
    """Returns the path of the module that this one is an attribute of."""
    return path.rpartition(".")[0]


def inside(path: str, module: str) -> bool:
    """Returns whether a path is that of a module or of something in it."""
    return path == module or path.startswith(f"{module}.") or not module


def nodes_inside(nodes: Mapping[int, Node], module: str) -> dict[int, Node]:
    """Returns those of some nodes that a module computes."""
    return {number: node for number, node in nodes.items() if inside(node.scope, module)}


def consumers(nodes: Mapping[int, Node]) -> dict[int, list[int]]:
    """Returns the nodes that take each node's result, in the order of the code."""
    takers: dict[int, list[int]] = {number: [] for number in nodes}
    for number, node in nodes.items():
        for source in dict.fromkeys(node.inputs):
            if source in takers:
                takers[source].append(number)
    return takers

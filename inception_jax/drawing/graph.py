"""The graph of a network: the operations that a paper's figure would show."""

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
"""Kind of a node. `simplify` replaces `step` with a more specific kind, and merges `bias` into the
layer before it."""

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Node:
    """An operation.

    Attributes:
        kind: kind of the operation.
        inputs: ids of the nodes that compute its inputs, in the order of the code.
        shape: shape of its result, without the batch axis.
        scope: path of the innermost module that computes it.
        parameter: path of its parameter; empty if it has none.
        text: name of an activation or normalisation, a factor, or a dropout rate.
        window: height and width of the window.
        stride: stride of the window along both axes.
        dilation: distance between the pixels of the window along both axes.
        padding: padding before and after both axes.
        depthwise: whether it is a convolution with groups.
        valid: whether it is a convolution or pool without the padding that would keep the size.
        counts_padding: whether it is an average pool that includes the padding at the border.
        parts: number of channels of each part of a split.
        after: names of the operations that follow a convolution, linear layer or normalisation in
            the same layer, such as "BN" and "ReLU".
        primitives: names of jax's primitives in a step.
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
        """Path of the module that owns the node's parameter."""
        return parent(self.parameter)


@dataclasses.dataclass(frozen=True)
class Graph:
    """The graph of a network.

    Attributes:
        nodes: nodes by id. The id of a node is greater than the ids of its inputs.
        outputs: ids of the nodes that compute the network's outputs: the logits, then the logits of
            the auxiliary classifiers.
        stages: for each stage of `features`, by name and in forward order, the id of the node that
            computes its feature map.
        calls: paths of the called modules, in the order of the calls.
        modules: class of each module by its path; the network's path is empty.
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
    """Returns the path of the module that contains `path`; empty if that is the network."""
    return path.rpartition(".")[0]


def inside(path: str, module: str) -> bool:
    """Returns whether `path` is the path of `module` or of something inside it."""
    return path == module or path.startswith(f"{module}.") or not module


def nodes_inside(nodes: Mapping[int, Node], module: str) -> dict[int, Node]:
    """Returns the nodes that a module and the modules inside it compute, by id."""
    return {number: node for number, node in nodes.items() if inside(node.scope, module)}


def consumers(nodes: Mapping[int, Node]) -> dict[int, list[int]]:
    """Returns for each node, by its id, the ids of the nodes that use its result.

    The ids of each list are in the order of `nodes`.
    """
    takers: dict[int, list[int]] = {number: [] for number in nodes}
    for number, node in nodes.items():
        for source in dict.fromkeys(node.inputs):
            if source in takers:
                takers[source].append(number)
    return takers

"""Folds the scale and shift of each channel into the convolutions of an ONNX graph."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np

from inception_jax.serving.onnx_graph import Graph, Node

# Operations with two constants: one multiplies each channel of the result, one is added to it.
_BY_CHANNEL = ("Conv", "BatchNormalization")


@dataclasses.dataclass(frozen=True)
class _Affine:
    """The operation factor * x + summand, where `source` is the name of the tensor x.

    The factor and the summand are [channels] or [1].
    """

    source: str
    factor: np.ndarray
    summand: np.ndarray


def fold_channels(graph: Graph, outputs: list[str]) -> None:
    """Folds the scale and shift of each channel into the preceding convolution, in place.

    Scales and shifts come from biases and from BatchNorm in evaluation mode. If no convolution
    precedes a sequence of them, the sequence becomes one BatchNorm node. They are combined in
    float64 and rounded once, so the results are equal up to rounding. Nodes that no output depends
    on are removed.

    Args:
        graph: graph to change.
        outputs: names of the graph's outputs.
    """
    _drop_unused(graph, outputs)  # an unused node would count as a use
    uses = Counter([name for node in graph.nodes for name in node.inputs] + outputs)
    producers: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        affine = _affine(graph, node)
        before = producers.get(affine.source) if affine else None
        if affine and before and before.op in _BY_CHANNEL and uses[affine.source] == 1:
            _absorb(graph, before, affine)
            before.outputs = node.outputs
            producers[node.outputs[0]] = before
            continue
        if affine and max(affine.factor.size, affine.summand.size) > 1:
            node = _batch_norm(graph, affine, node.outputs)
        nodes.append(node)
        producers |= dict.fromkeys(node.outputs, node)
    graph.nodes = nodes
    _round(graph)
    _drop_unused(graph, outputs)


def _drop_unused(graph: Graph, outputs: list[str]) -> None:
    needed, nodes = set(outputs), []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            nodes.append(node)
            needed.update(node.inputs)
    graph.nodes = nodes[::-1]
    graph.constants = {name: x for name, x in graph.constants.items() if name in needed}


def _affine(graph: Graph, node: Node) -> _Affine | None:
    """Returns a node's factor and summand per channel; None if it does not scale or shift."""
    if node.op not in ("Add", "Sub", "Mul", "Div"):
        return None
    first, second = node.inputs
    if (first in graph.constants) == (second in graph.constants):
        return None
    flipped = first in graph.constants
    source, constant = (second, first) if flipped else (first, second)
    k = _of_channels(graph.constants[constant])
    if k is None or (flipped and node.op == "Div"):
        return None
    one, zero = np.ones(1), np.zeros(1)
    if node.op == "Add":
        return _Affine(source, one, k)
    if node.op == "Sub":
        return _Affine(source, -one, k) if flipped else _Affine(source, one, -k)
    return _Affine(source, k if node.op == "Mul" else 1 / k, zero)


def _of_channels(constant: np.ndarray) -> np.ndarray | None:
    if constant.size == 1 or (constant.ndim == 4 and constant.size == constant.shape[1]):
        return constant.reshape(-1).astype(np.float64)
    return None


def _absorb(graph: Graph, node: Node, affine: _Affine) -> None:
    weight, bias = node.inputs[1:3] if len(node.inputs) > 2 else (node.inputs[1], None)
    wide = graph.constants[weight].astype(np.float64)
    channels = wide.shape[0]
    factor = np.broadcast_to(affine.factor, channels)
    old = np.zeros(channels) if bias is None else graph.constants[bias]
    if bias is None:
        bias = graph.constant(old)
        node.inputs.append(bias)
    graph.constants[weight] = wide * factor.reshape(channels, *(1,) * (wide.ndim - 1))
    graph.constants[bias] = old * factor + affine.summand


def _batch_norm(graph: Graph, affine: _Affine, outputs: list[str]) -> Node:
    channels = max(affine.factor.size, affine.summand.size)
    zeros, ones = np.zeros(channels), np.ones(channels)
    constants = [affine.factor * ones, affine.summand + zeros, zeros, ones]
    names = [graph.constant(array) for array in constants]
    return Node("BatchNormalization", [affine.source, *names], outputs, {"epsilon": 0.0})


def _round(graph: Graph) -> None:
    for name, array in graph.constants.items():
        if array.dtype == np.float64:
            graph.constants[name] = array.astype(np.float32)

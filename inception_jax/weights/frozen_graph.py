"""Reads the variables of a frozen graph, and restores BatchNorm layers that were folded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from inception_jax.weights.slim_layouts import LEAF
from inception_jax.weights.torch_names import Tensors

# Including those of the graph of 2015.
_OLD = r"conv2d_params|batchnorm/(?:gamma|beta|moving_mean|moving_variance)"
_VARIABLE = re.compile(rf".+/(?:{LEAF}|{_OLD})")
_OLD_NORM = "BatchNormWithGlobalNormalization"
_PRODUCTS = {"Conv2D", "MatMul"}
_EPS = 1e-3  # epsilon of all TF-slim networks, and of the layers here


def variables(graph: Any, to_array: Callable[[Any], np.ndarray]) -> Tensors:
    """Returns a frozen graph's constants by the names of the original variables.

    If a convolution's BatchNorm was folded, the result contains a new BatchNorm, which applies the
    scale and shift that follow the convolution in the graph.

    Args:
        graph: `GraphDef` protocol buffer.
        to_array: function that converts a tensor of the graph to an array.
    """
    nodes = {node.name: node for node in graph.node}
    consumers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in _inputs(node):
            consumers.setdefault(name, []).append(node.name)
    constants = {
        name: to_array(node.attr["value"].tensor)
        for name, node in nodes.items()
        if node.op == "Const"
    }
    result = {name: array for name, array in constants.items() if _VARIABLE.fullmatch(name)}
    for node in graph.node:
        if node.op == _OLD_NORM and not node.attr["scale_after_normalization"].b:
            gamma = _inputs(node)[-1]
            result[gamma] = np.ones_like(constants[gamma])
    reader = _Reader(nodes, consumers, constants)
    for node in graph.node:
        if node.op in _PRODUCTS:
            result |= dict(reader.unfolded(node, result))
    return result


def _inputs(node: Any) -> list[str]:
    return [name.partition(":")[0] for name in node.input if not name.startswith("^")]


class _Reader:
    def __init__(
        self, nodes: Mapping[str, Any], consumers: Mapping[str, list[str]], constants: Tensors
    ):
        self.nodes = nodes
        self.consumers = consumers
        self.constants = constants

    def unfolded(self, product: Any, known: Tensors) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, array) for the kernel and a new BatchNorm of a layer.

        Yields nothing if `known` already has the bias or the BatchNorm of this layer.

        Args:
            product: node of the convolution or matrix product.
            known: variables that were found in the graph.
        """
        kernel = self._constant(_inputs(product)[1])
        if kernel is None:
            return
        source = self._source(_inputs(product)[1])
        scope = re.sub(r"/(weights|Conv2D|MatMul|convolution|BatchNorm)(/.*|_\w+)?$", "", source)
        if f"{scope}/biases" in known or f"{scope}/BatchNorm/moving_mean" in known:
            return
        channels = kernel.shape[-1]
        affine = self._affine(product.name, channels)
        if affine is None:  # nothing follows: a layer without a bias
            return
        scale, shift = affine
        yield f"{scope}/weights", kernel
        yield f"{scope}/BatchNorm/gamma", (scale * np.sqrt(1 + _EPS)).astype(np.float32)
        yield f"{scope}/BatchNorm/beta", shift.astype(np.float32)
        yield f"{scope}/BatchNorm/moving_mean", np.zeros(channels, np.float32)
        yield f"{scope}/BatchNorm/moving_variance", np.ones(channels, np.float32)

    def _source(self, name: str) -> str:
        while self.nodes[name].op == "Identity":
            name = _inputs(self.nodes[name])[0]
        return name

    def _constant(self, name: str) -> np.ndarray | None:
        return self.constants.get(self._source(name))

    def _affine(self, name: str, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the scale and shift [channels] that the operations after a node apply.

        Returns None if no scale or shift follows the node `name`.
        """
        scale, shift, found = np.ones(channels), np.zeros(channels), False
        while len(self.consumers.get(name, ())) == 1:
            node = self.nodes[self.consumers[name][0]]
            step = self._step(node, name, channels)
            if step is None:
                break
            gain, offset = step
            scale, shift, found = scale * gain, shift * gain + offset, True
            name = node.name
        return (scale, shift) if found else None

    def _step(self, node: Any, name: str, channels: int) -> tuple[Any, Any] | None:
        if node.op == "Identity":
            return 1.0, 0.0
        others = [other for other in _inputs(node) if other != name]
        values = [self._constant(other) for other in others]
        if not values or any(value is None or value.shape != (channels,) for value in values):
            return None
        vectors = [np.asarray(value, np.float64) for value in values]
        if node.op in ("BiasAdd", "Add", "AddV2"):
            return 1.0, vectors[0]
        if node.op == "Sub" and _inputs(node)[0] == name:
            return 1.0, -vectors[0]
        if node.op == "Mul":
            return vectors[0], 0.0
        if node.op.startswith("FusedBatchNorm") and len(vectors) == 4:
            gamma, beta, mean, variance = vectors
            gain = gamma / np.sqrt(variance + node.attr["epsilon"].f)
            return gain, beta - mean * gain
        return None

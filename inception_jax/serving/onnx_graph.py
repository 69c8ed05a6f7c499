"""An ONNX graph under construction.

ONNX has channels first: a tensor of rank 4 is [n, c, h, w] in the graph. Only the input images and
the outputs of rank 4 are transposed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

CHANNELS_FIRST, CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The result of a node.

    Attributes:
        name: name in the graph.
        shape: shape in jax's order of axes, channels last.
    """

    name: str
    shape: tuple[Any, ...]


Operand = Tensor | np.ndarray
"""A tensor, or a constant in jax's order of axes."""


@dataclasses.dataclass
class Node:
    """An operation. Its inputs and outputs are the names of tensors and constants.

    `op` is the name of the ONNX operator, and `attributes` are the operator's attributes by name.
    """

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class Graph:
    """Nodes in the order of computation, and the constants that they use.

    Attributes:
        nodes: nodes, each after the nodes that compute its inputs.
        constants: constants by name, in ONNX's order of axes.
        strided: maps the name of a sliced tensor to (source, (n, m)), if the tensor is every n-th
            row and m-th column of the source.
        means: maps the name of a sum over windows or axes to a function. The function takes a
            divisor, and returns the mean if the divisor is the number of summands, else None.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.strided: dict[str, tuple[Tensor, tuple[int, int]]] = {}
        self.means: dict[str, Callable[[np.ndarray], Tensor | None]] = {}
        self._count = 0

    def add(self, op: str, *operands: Operand, shape: tuple[Any, ...], **attributes: Any) -> Tensor:
        """Appends a node with one output, and returns the output.

        Args:
            op: name of the ONNX operator, such as "Conv".
            *operands: inputs of the node; arrays become constants of the graph.
            shape: shape of the output, in jax's order of axes.
            **attributes: attributes of the ONNX operator.
        """
        return self.add_many(op, *operands, shapes=[shape], **attributes)[0]

    def add_many(
        self, op: str, *operands: Operand, shapes: list[tuple[Any, ...]], **attributes: Any
    ) -> list[Tensor]:
        """Appends a node with an output for each shape, and returns the outputs; see `add`."""
        inputs = [x.name if isinstance(x, Tensor) else self.constant(x) for x in operands]
        tensors = [Tensor(self._new(op.lower()), shape) for shape in shapes]
        self.nodes.append(Node(op, inputs, [t.name for t in tensors], attributes))
        return tensors

    def constant(self, array: np.ndarray) -> str:
        """Adds a constant, and returns its name. An array of rank 4 gets channels first."""
        name = self._new("constant")
        self.constants[name] = array.transpose(CHANNELS_FIRST) if array.ndim == 4 else array
        return name

    def producer(self, operand: Operand) -> Node | None:
        """Returns the node that computes an operand; None for constants and inputs."""
        name = operand.name if isinstance(operand, Tensor) else None
        return next((node for node in reversed(self.nodes) if name in node.outputs), None)

    def _new(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"


def axis_of(axis: int, rank: int) -> int:
    """Converts the index of an axis from jax's order to ONNX's.

    The orders differ only at rank 4: [n, h, w, c] in jax, [n, c, h, w] in ONNX.

    Args:
        axis: index in jax's order.
        rank: number of axes of the tensor.
    """
    return CHANNELS_FIRST.index(axis) if rank == 4 else axis

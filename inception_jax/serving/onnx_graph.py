"""A program in ONNX's terms, before it is written.

ONNX has channels first. A tensor that has four axes here has them as [n, c, h, w] in the graph, and
nothing is transposed between the first layer and the last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

CHANNELS_FIRST, CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What a node computes.

    Attributes:
        name: in the graph.
        shape: with the axes in jax's order, channels last.
    """

    name: str
    shape: tuple[Any, ...]


Operand = Tensor | np.ndarray
"""A tensor, or a constant with its axes in jax's order."""


@dataclasses.dataclass
class Node:
    """An operation on tensors and constants, by their names."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class Graph:
    """Nodes in the order of their computation, and the constants that they take.

    Attributes:
        nodes: every node after those whose outputs it takes.
        constants: by name, with their axes in ONNX's order.
        strided: for a tensor that is every n-th row and m-th column of another, by its name, that
            other tensor and (n, m).
        means: for a tensor that is a sum over windows or axes, by its name, what gives the mean, if
            the divisor that it is called with is the number of summands, else None.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.strided: dict[str, tuple[Tensor, tuple[int, int]]] = {}
        self.means: dict[str, Callable[[np.ndarray], Tensor | None]] = {}
        self._count = 0

    def add(self, op: str, *operands: Operand, shape: tuple[Any, ...], **attributes: Any) -> Tensor:
        """Appends a node with one output of a shape in jax's order."""
        return self.add_many(op, *operands, shapes=[shape], **attributes)[0]

    def add_many(
        self, op: str, *operands: Operand, shapes: list[tuple[Any, ...]], **attributes: Any
    ) -> list[Tensor]:
        """Appends a node with an output for each shape."""
        inputs = [x.name if isinstance(x, Tensor) else self.constant(x) for x in operands]
        tensors = [Tensor(self._new(op.lower()), shape) for shape in shapes]
        self.nodes.append(Node(op, inputs, [t.name for t in tensors], attributes))
        return tensors

    def constant(self, array: np.ndarray) -> str:
        """Keeps a constant, of four axes with its channels first; returns its name."""
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
    """Returns where an axis of jax's order is in the graph."""
    return CHANNELS_FIRST.index(axis) if rank == 4 else axis

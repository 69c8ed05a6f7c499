"""Converts a traced program to a graph, equation by equation.

Values that do not depend on the images have no nodes. Equations that only cast or rearrange
numbers, such as reshapes, have no nodes either. Elementwise equations are nodes of kind `step`,
which `simplify` replaces later. If chains of steps start at one node and meet again, as in
x * cdf(x), one step represents all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from inception_jax.drawing import tracing
from inception_jax.drawing.graph import Graph, Node, Pair
from inception_jax.nn import ops

_REARRANGING = {
    "convert_element_type",
    "copy",
    "copy_p",
    "name",
    "reshape",
    "squeeze",
    "expand_dims",
    "transpose",
    "broadcast_in_dim",
    "stop_gradient",
}
_POOLS = {"reduce_window_max": "max_pool", "reduce_window_sum": "avg_pool"}


@dataclasses.dataclass(frozen=True)
class _Constant:
    """A value that does not depend on the images.

    Attributes:
        parameters: paths of the parameters that it depends on.
        number: the value, if it is a single number that the program contains; else None.
    """

    parameters: tuple[str, ...] = ()
    number: float | None = None


_Value = _Constant | int
"""A constant, or the id of the node that computes the value."""


def read_graph(program: tracing.MarkedProgram) -> Graph:
    """Returns the graph of a traced program, including nodes that no output depends on."""
    reader = _Reader()
    jaxpr = program.closed.jaxpr
    constants: list[_Value] = [_literal(value) for value in program.closed.consts]
    parameters: list[_Value] = [_Constant((path,)) for path in program.parameters]
    images = reader.add(Node("input", (), jaxpr.invars[-1].aval.shape[1:]))
    outputs = reader.run(jaxpr, constants, [*parameters, images])
    nodes = dict(enumerate(reader.nodes))
    calls = tuple(dict.fromkeys(reader.calls))
    return Graph(nodes, tuple(map(_node, outputs)), reader.stages, calls, program.modules)


class _Reader:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.stages: dict[str, int] = {}
        self.calls: list[str] = []
        self.scopes: list[str] = [""]

    def add(self, node: Node) -> int:
        """Appends a node, whose scope is the module that is being called; returns the node's id."""
        self.nodes.append(dataclasses.replace(node, scope=self.scopes[-1]))
        return len(self.nodes) - 1

    def run(self, jaxpr: Any, constants: list[_Value], arguments: list[_Value]) -> list[_Value]:
        """Reads a jaxpr, which may be nested in another; returns the values of its outputs."""
        values: dict[Any, _Value] = dict(
            zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True)
        )

        def value(atom: Any) -> _Value:
            return _literal(atom.val) if hasattr(atom, "val") else values[atom]

        for equation in jaxpr.eqns:
            results = self.equation(equation, [value(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, operands: list[_Value]) -> list[_Value]:
        """Reads an equation; returns the values of its outputs."""
        inner = next((p for p in equation.params.values() if hasattr(p, "eqns")), None)
        sources = [operand for operand in operands if isinstance(operand, int)]
        if inner is not None and "reduce" not in equation.primitive.name:  # e.g. `jit`
            constants: list[_Value] = [_literal(c) for c in getattr(inner, "consts", ())]
            return self.run(getattr(inner, "jaxpr", inner), constants, operands)
        if not sources:
            return [_constant(equation, operands)] * len(equation.outvars)
        mark = tracing.event(equation)
        if mark is not None:
            return [self.mark(*mark, sources[0])]
        if equation.primitive.name == "split":
            return list(self.split(equation, sources[0]))
        return [self.node(equation, operands, sources)] * len(equation.outvars)

    def mark(self, kind: tracing.Event, name: str, source: int) -> int:
        """Records a stage, a dropout, or the start or end of a module's call.

        Args:
            kind: kind of the mark.
            name: name of the stage, rate of the dropout, or path of the module.
            source: id of the node that computes the marked value.

        Returns:
            The id of the node that represents the marked value: a new node for a dropout, else
            `source`.
        """
        if kind == "dropout":
            return self.add(Node("dropout", (source,), self.nodes[source].shape, text=name))
        if kind == "stage":
            self.stages[name] = source
        elif kind == "enter":
            self.scopes.append(name)
            self.calls.append(name)
        else:
            self.scopes.pop()
        return source

    def split(self, equation: Any, source: int) -> list[int]:
        """Adds a node that splits channels, and a node for each part; returns the parts' ids."""
        sizes = tuple(int(size) for size in equation.params["sizes"])
        whole = self.add(Node("split", (source,), self.nodes[source].shape, parts=sizes))
        shapes = [out.aval.shape[1:] for out in equation.outvars]
        return [self.add(Node("slice", (whole,), shape)) for shape in shapes]

    def node(self, equation: Any, operands: list[_Value], sources: list[int]) -> int:
        """Reads an equation that depends on the images; returns the id of the node for its result.

        An equation that only rearranges numbers adds no node; the id of its input is returned.

        Args:
            equation: equation of the jaxpr.
            operands: values of all inputs.
            sources: ids of the nodes among `operands`.
        """
        name, shape = equation.primitive.name, equation.outvars[0].aval.shape[1:]
        first = self.nodes[sources[0]]
        if name in _REARRANGING or (name == "pad" and shape == first.shape):
            if first.kind == "adaptive_pool":  # a transpose between the pool's two products
                self.nodes[sources[0]] = dataclasses.replace(first, shape=shape)
            return sources[0]
        if name == "conv_general_dilated":
            return self.add(_conv(equation, sources[0], _parameter(operands)))
        if name in _POOLS:
            return self.add(_pool(equation, sources[0]))
        if name == "reduce_sum" and equation.params["axes"] == (1, 2):
            return self.add(Node("global_pool", (sources[0],), shape))
        if name == "dot_general":
            return self.product(sources[0], shape, _parameter(operands))
        if name == "concatenate" and len(sources) > 1:
            return self.add(Node("concat", tuple(sources), shape))
        if name == "div" and len(sources) == 1 and first.kind in ("avg_pool", "global_pool"):
            return self.divided(sources[0], operands[1])
        return self.elementwise(equation, operands, sources)

    def product(self, source: int, shape: tuple[int, ...], parameter: str) -> int:
        """Reads a matrix product; returns the id of the node that represents it.

        A product with a parameter becomes a linear layer. A product with a constant belongs to an
        adaptive average pool, which has one product for the rows and one for the columns. The first
        product adds the pool's node. The second adds no node, and the id of the pool is returned.

        Args:
            source: id of the node that computes the input.
            shape: shape of the result, without the batch axis.
            parameter: path of the parameter in the product; empty if the other factor is constant.
        """
        if parameter:
            return self.add(Node("linear", (source,), shape, parameter=parameter))
        if self.nodes[source].kind == "adaptive_pool":  # over the rows; this one is over columns
            return source
        return self.add(Node("adaptive_pool", (source,), shape))

    def divided(self, source: int, divisor: _Value) -> int:
        """Completes an average pool, which is a sum followed by a division; returns its node's id.

        If all windows have the same divisor, the average includes the padding.

        Args:
            source: id of the node of the sum, which represents the pool.
            divisor: number of pixels in each window, as one number or as an array.
        """
        pool = self.nodes[source]
        one = isinstance(divisor, _Constant) and divisor.number is not None
        counts = one and any(any(pads) for pads in pool.padding)
        self.nodes[source] = dataclasses.replace(pool, counts_padding=counts)
        return source

    def elementwise(self, equation: Any, operands: list[_Value], sources: list[int]) -> int:
        """Adds the node of an elementwise equation and returns the node's id.

        The node is of kind `step` in two cases: the equation has one input besides constants, or
        all its inputs are computed from one earlier node by steps, slices and splits alone. In the
        second case, the earlier node is the step's only input. In all other cases, the node is of
        kind `add` or `other` and has several inputs.
        """
        name, shape = equation.primitive.name, equation.outvars[0].aval.shape[1:]
        word = frozenset({name})
        if len(set(sources)) == 1:
            constants = [x for x in operands if isinstance(x, _Constant)]
            number = constants[0].number if len(constants) == 1 else None
            text = "" if number is None else repr(number)
            stride = equation.params["strides"][1:3] if name == "slice" else (1, 1)
            step = Node("step", (sources[0],), shape, text=text, stride=stride, primitives=word)
            return self.add(dataclasses.replace(step, parameter=_parameter(operands)))
        chains = [self.chain(source) for source in dict.fromkeys(sources)]
        common = [x for x in chains[0] if all(x in chain for chain in chains[1:])]
        if common:
            passed = {x for chain in chains for x in chain[: chain.index(common[0])]}
            words = word.union(*(self.nodes[x].primitives for x in passed))
            return self.add(Node("step", (common[0],), shape, primitives=words))
        kind = "add" if name in ("add", "add_any") else "other"
        return self.add(Node(kind, tuple(sources), shape, text=name))

    def chain(self, number: int) -> list[int]:
        """Returns the ids on the path from a node backwards, through nodes of one input.

        The path goes on through elementwise operations (nodes of kind `step`), slices and splits.
        It stops at the first node of another kind. Both ends are included.
        """
        chain = [number]
        while self.nodes[number].kind in ("step", "slice", "split"):
            (number,) = self.nodes[number].inputs
            chain.append(number)
        return chain


def _conv(equation: Any, source: int, parameter: str) -> Node:
    params, kernel = equation.params, equation.invars[1].aval.shape
    window: Pair = kernel[:2]
    groups = params["feature_group_count"]
    return Node(
        "conv",
        (source,),
        equation.outvars[0].aval.shape[1:],
        parameter=parameter,
        dilation=params["rhs_dilation"],
        depthwise=groups > 1,
        **_windows(
            equation, window, params["window_strides"], params["padding"], params["rhs_dilation"]
        ),
    )


def _pool(equation: Any, source: int) -> Node:
    params = equation.params
    kind = "max_pool" if _POOLS[equation.primitive.name] == "max_pool" else "avg_pool"
    windows = _windows(
        equation,
        params["window_dimensions"][1:3],
        params["window_strides"][1:3],
        params["padding"][1:3],
    )
    return Node(kind, (source,), equation.outvars[0].aval.shape[1:], **windows)


def _windows(
    equation: Any, window: Pair, stride: Pair, padding: Any, dilation: Pair = (1, 1)
) -> dict[str, Any]:
    sizes = equation.invars[0].aval.shape[1:3]
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    same = [ops.pads(n, k, s, "same") for n, k, s in zip(sizes, spans, stride, strict=True)]
    none = not any(any(pads) for pads in padding)
    return dict(
        window=tuple(window),
        stride=tuple(stride),
        padding=tuple(tuple(pads) for pads in padding),
        valid=none and any(any(pads) for pads in same),
    )


def _constant(equation: Any, operands: list[_Value]) -> _Constant:
    constants = [operand for operand in operands if isinstance(operand, _Constant)]
    parameters = dict.fromkeys(path for constant in constants for path in constant.parameters)
    rearranged = equation.primitive.name in _REARRANGING and constants
    return _Constant(tuple(parameters), constants[0].number if rearranged else None)


def _literal(value: Any) -> _Constant:
    return _Constant(number=float(value) if np.ndim(value) == 0 else None)


def _parameter(operands: list[_Value]) -> str:
    """Returns the path of the first parameter among the operands; empty if there is none."""
    paths = [x.parameters[0] for x in operands if isinstance(x, _Constant) and x.parameters]
    return paths[0] if paths else ""


def _node(value: _Value) -> int:
    if isinstance(value, _Constant):
        raise ValueError("an output does not depend on the images")
    return value

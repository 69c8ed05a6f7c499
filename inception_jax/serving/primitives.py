"""Translates jax primitives to ONNX nodes.

Only the primitives that occur in this library's networks are supported.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from inception_jax.serving import conv_and_pool, slicing
from inception_jax.serving.export_error import ExportError
from inception_jax.serving.onnx_graph import Graph, Operand, Tensor, axis_of

Handler = Callable[..., Operand | list[Tensor]]
"""A function `handler(graph, params, results, *operands)` that translates one jax primitive.

It appends the primitive's ONNX nodes to `graph`, and returns their output, or a list of outputs.
`params` maps the names of the primitive's parameters to their values. `results` is a list with the
shape and dtype of each output. `operands` are the primitive's inputs.
"""

ELEMENTWISE: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "add": ("Add", np.add),
    "sub": ("Sub", np.subtract),
    "mul": ("Mul", np.multiply),
    "div": ("Div", np.divide),
    "pow": ("Pow", np.power),
    "max": ("Max", np.maximum),
    "neg": ("Neg", np.negative),
}
"""For each jax primitive: ONNX's operator, and the NumPy function that evaluates constants."""


def handler_of(primitive: str) -> Handler:
    """Returns the function that appends the ONNX nodes of a jax primitive, given its name.

    Raises:
        ExportError: if the primitive is not supported.
    """
    if primitive in _HANDLERS:
        return _HANDLERS[primitive]
    if primitive in ELEMENTWISE:
        return functools.partial(_elementwise, ELEMENTWISE[primitive][0])
    raise ExportError(
        f"this network uses jax's primitive {primitive!r}, which export cannot write as ONNX: use "
        "the format stablehlo"
    )


def _elementwise(op: str, graph: Graph, _: dict, results: list, *operands: Operand) -> Tensor:
    return graph.add(op, *operands, shape=results[0].shape)


def _div(graph: Graph, params: dict, results: list, x: Operand, y: Operand) -> Tensor:
    if isinstance(x, Tensor) and isinstance(y, np.ndarray) and x.name in graph.means:
        mean = graph.means[x.name](y)
        if mean is not None:
            return mean
    return _elementwise("Div", graph, params, results, x, y)


def _max(graph: Graph, params: dict, results: list, x: Operand, y: Operand) -> Tensor:
    if isinstance(x, np.ndarray):
        x, y = y, x
    if isinstance(y, np.ndarray) and y.size == 1 and not y.any():
        return graph.add("Relu", x, shape=results[0].shape)
    return _elementwise("Max", graph, params, results, x, y)


def _square(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    return graph.add("Mul", x, x, shape=x.shape)


def _rsqrt(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    return graph.add("Reciprocal", graph.add("Sqrt", x, shape=x.shape), shape=x.shape)


def _erfc(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    """Appends 1 - erf(x) as 1 + erf(-x); returns it. For the arguments, see `Handler`.

    jax's GELU calls erfc with a negated value. The two negations cancel, which leaves the form of a
    GELU that runtimes recognise.
    """
    erf = graph.add("Erf", _negative(graph, x), shape=x.shape)
    return graph.add("Add", erf, np.ones((), np.float32), shape=x.shape)


def _negative(graph: Graph, x: Tensor) -> Tensor:
    """Appends -x to the graph, and returns it.

    If x is k * -y, as in a GELU, appends y / (1 / k) instead, which onnxruntime recognises.
    """
    product = graph.producer(x)
    factor = graph.constants.get(product.inputs[1]) if product and product.op == "Mul" else None
    if product is not None and factor is not None and factor.ndim == 0:
        negated = graph.producer(Tensor(product.inputs[0], x.shape))
        if negated is not None and negated.op == "Neg":
            return graph.add("Div", Tensor(negated.inputs[0], x.shape), 1 / factor, shape=x.shape)
    return graph.add("Neg", x, shape=x.shape)


def _cast(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    return graph.add("Cast", x, shape=x.shape, to=np.dtype(params["new_dtype"]))


def _copy(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    return x


def _broadcast(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    """Appends a node that inserts axes of size 1, as `keepdims` does; returns its output.

    ONNX's operations then broadcast these axes like jax's. For the arguments, see `Handler`.

    Raises:
        ExportError: for any other broadcast.
    """
    old, shape = params["broadcast_dimensions"], results[0].shape
    new = [axis for axis in range(len(shape)) if axis not in old]
    same = all(shape[axis] == size for axis, size in zip(old, x.shape, strict=True))
    if not same or any(shape[axis] != 1 for axis in new) or len(shape) == 4:
        raise ExportError(f"export cannot write a broadcast of {x.shape} to {shape} as ONNX")
    return graph.add("Unsqueeze", x, np.asarray(new, np.int64), shape=shape)


def _sum(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    axes, shape = params["axes"], results[0].shape
    rest = [axis_of(axis, len(x.shape)) for axis in range(len(x.shape)) if axis not in axes]
    if rest != sorted(rest):
        raise ExportError(f"export cannot write a sum over the axes {axes} as ONNX")
    places = np.asarray(sorted(axis_of(axis, len(x.shape)) for axis in axes), np.int64)
    total = graph.add("ReduceSum", x, places, shape=shape, keepdims=0)
    count = math.prod(x.shape[axis] for axis in axes)

    def mean_by(divisor: np.ndarray) -> Tensor | None:
        if len(x.shape) != 4 or tuple(axes) != (1, 2) or not (divisor == count).all():
            return None
        pooled = graph.add("GlobalAveragePool", x, shape=(shape[0], 1, 1, shape[1]))
        return graph.add("Flatten", pooled, shape=shape, axis=1)

    graph.means[total.name] = mean_by
    return total


def _dot(graph: Graph, params: dict, results: list, x: Operand, y: Operand) -> Tensor:
    contracted, batch = params["dimension_numbers"]
    ranks = [x.ndim if isinstance(x, np.ndarray) else len(x.shape) for x in (x, y)]
    if tuple(map(tuple, contracted)) != ((1,), (0,)) or any(batch) or ranks != [2, 2]:
        raise ExportError("export cannot write this matrix product as ONNX")
    return graph.add("MatMul", x, y, shape=results[0].shape)


_HANDLERS: dict[str, Handler] = {
    "div": _div,
    "max": _max,
    "square": _square,
    "rsqrt": _rsqrt,
    "erfc": _erfc,
    "convert_element_type": _cast,
    "copy": _copy,
    "broadcast_in_dim": _broadcast,
    "concatenate": slicing.concatenate,
    "split": slicing.split,
    "slice": slicing.strided_slice,
    "gather": slicing.gather,
    "rev": slicing.rev,
    "pad": slicing.pad,
    "conv_general_dilated": conv_and_pool.conv,
    "reduce_window_max": conv_and_pool.window_max,
    "reduce_window_sum": conv_and_pool.window_sum,
    "reduce_sum": _sum,
    "dot_general": _dot,
}

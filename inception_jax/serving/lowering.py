"""Converts a traced program to an ONNX graph, and evaluates the operations on constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from inception_jax.serving.export_error import ExportError
from inception_jax.serving.onnx_graph import Graph, Operand
from inception_jax.serving.primitives import ELEMENTWISE, handler_of

_INLINED = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
"""Primitives that call an inner program, and the name of the parameter that contains it."""


def lower(graph: Graph, traced: ClosedJaxpr, operands: Sequence[Operand]) -> list[Operand]:
    """Appends a program's nodes to a graph.

    Args:
        graph: graph to append to.
        traced: traced program.
        operands: inputs of the program.

    Returns:
        The outputs of the program.

    Raises:
        ExportError: for anything that ONNX cannot express.
    """
    jaxpr: Any = traced.jaxpr  # its variables are untyped
    known: dict[Any, Operand] = dict(
        zip(jaxpr.constvars, map(np.asarray, traced.consts), strict=True)
    )
    known |= zip(jaxpr.invars, operands, strict=True)

    def read(variable: Any) -> Operand:
        if isinstance(variable, Literal):
            aval: Any = variable.aval
            return np.asarray(variable.val, aval.dtype)
        return known[variable]

    for equation in jaxpr.eqns:
        results = _results(graph, equation, [read(variable) for variable in equation.invars])
        known |= zip(equation.outvars, results, strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _results(graph: Graph, equation: Any, operands: list[Operand]) -> Sequence[Operand]:
    name, params = equation.primitive.name, equation.params
    if name in _INLINED:
        return lower(graph, params[_INLINED[name]], operands)
    constants = [x for x in operands if isinstance(x, np.ndarray)]
    if len(constants) == len(operands):
        return _computed(equation, constants)
    avals = [variable.aval for variable in equation.outvars]
    for aval in avals:
        if jnp.issubdtype(aval.dtype, jnp.floating) and aval.dtype != jnp.float32:
            raise ExportError(
                f"this network computes in {aval.dtype}, and ONNX files are written of float32 "
                "networks: build it with dtype=jnp.float32, or use the format stablehlo"
            )
    results = handler_of(name)(graph, params, avals, *operands)
    return results if isinstance(results, list) else [results]


def _computed(equation: Any, constants: list[np.ndarray]) -> list[np.ndarray]:
    name, shapes = equation.primitive.name, [v.aval.shape for v in equation.outvars]
    if not all(isinstance(n, int) for shape in shapes for n in shape):
        raise ExportError(f"export cannot write a constant of {shapes} as ONNX")
    # By NumPy: jax would compile each of the hundreds of small expressions in BatchNorm.
    if name in ELEMENTWISE:
        return [ELEMENTWISE[name][1](*constants)]
    if name == "rsqrt":
        return [1 / np.sqrt(constants[0])]
    if name == "broadcast_in_dim":
        shape, axes = shapes[0], equation.params["broadcast_dimensions"]
        aligned = [1] * len(shape)
        for axis, size in zip(axes, constants[0].shape, strict=True):
            aligned[axis] = size
        return [np.broadcast_to(constants[0].reshape(aligned), shape)]
    results = equation.primitive.bind(*map(jnp.asarray, constants), **equation.params)
    results = results if equation.primitive.multiple_results else [results]
    return [np.asarray(result) for result in results]

"""Counts multiply-accumulates in a network's traced program."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from inception_jax.nn import ops


def count_macs(model: nnx.Module, input_size: tuple[int, int], in_channels: int = 3) -> int:
    """Returns the number of multiply-accumulates in the forward pass of one image.

    Only convolutions and matrix products are counted. Multiplications with padding are counted too,
    as in published numbers.

    Args:
        model: network, counted in its current mode. It may be abstract (`nnx.eval_shape`), because
            nothing is computed.
        input_size: height and width of the image, in pixels.
        in_channels: number of channels of the image.
    """
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, *input_size, in_channels), jnp.float32)
    # Other implementations (see `nn.forms`) need other numbers of multiply-accumulates.
    with ops.forced_form("native"):
        traced = jax.make_jaxpr(lambda state, x: nnx.merge(graphdef, state)(x))(state, images)
    return sum(map(_macs, equations(traced)))


def equations(program: Any) -> Iterator[Any]:
    """Yields every equation of a traced program (a jaxpr) and of the programs inside it."""
    for equation in getattr(program, "eqns", ()):
        yield equation
        for value in equation.params.values():
            yield from equations(value)


def macs_of(equation: Any) -> int:
    """Returns the number of multiply-accumulates of an equation and of the programs inside it."""
    inner = (each for value in equation.params.values() for each in equations(value))
    return sum(_macs(each) for each in (equation, *inner))


def _macs(equation: Any) -> int:
    out = equation.outvars[0].aval
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out_channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return out.size * math.prod(kernel) // out_channels
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return out.size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return 0

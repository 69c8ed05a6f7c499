"""Translates jax's convolutions and pools to ONNX nodes, for `primitives`.

Each function appends the ONNX nodes of one jax primitive to a graph, and returns their output. The
arguments are those of a `primitives.Handler`: `params` are the primitive's parameters, and
`results` the shapes and dtypes of its outputs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from inception_jax.serving.export_error import ExportError
from inception_jax.serving.onnx_graph import Graph, Operand, Tensor


def conv(graph: Graph, params: dict, results: list, x: Tensor, kernel: Operand) -> Tensor:
    """Appends a convolution of images, possibly with groups or dilation; returns its output.

    A strided slice before a 1x1 convolution becomes a stride of the convolution.

    This is the `primitives.Handler` of jax's `conv_general_dilated`, with the arguments
    explained there. `x` is [n, h, w, c] and `kernel` [kh, kw, c / groups, d].

    Raises:
        ExportError: for any other kind of convolution, or a kernel that is not constant.
    """
    numbers = params["dimension_numbers"]
    specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    plain = specs == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    plain &= params["lhs_dilation"] == (1, 1) and params["batch_group_count"] == 1
    if not plain or not isinstance(kernel, np.ndarray):
        raise ExportError("export cannot write this convolution as ONNX")
    (top, bottom), (left, right) = params["padding"]
    strides, pads = params["window_strides"], (top, left, bottom, right)
    if kernel.shape[:2] == (1, 1) and x.name in graph.strided and not any(pads):
        x, between = graph.strided[x.name]
        strides = [n * m for n, m in zip(strides, between, strict=True)]
    return graph.add(
        "Conv",
        x,
        # To [out, kh, kw, in]; `constant` then moves the last axis forward to [out, in, kh, kw].
        kernel.transpose(3, 0, 1, 2),
        shape=results[0].shape,
        kernel_shape=kernel.shape[:2],
        strides=strides,
        dilations=params["rhs_dilation"],
        pads=pads,
        group=params["feature_group_count"],
    )


def window_max(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    """Appends a max pool; returns its output. Padded pixels are never the maximum.

    This is the `primitives.Handler` of jax's `reduce_window_max`, with the arguments explained
    there.

    Raises:
        ExportError: for a dilated window, or one over images or channels.
    """
    return graph.add("MaxPool", x, shape=results[0].shape, **_window(params))


def window_sum(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    """Appends a sum over windows, as an average pool times the window's area; returns the sum.

    If the sum is later divided by the number of its summands, an average pool replaces the sum and
    the division; see `Graph.means`.

    This is the `primitives.Handler` of jax's `reduce_window_sum`, with the arguments explained
    there.

    Raises:
        ExportError: for a dilated window, or one over images or channels.
    """
    window, shape = _window(params), results[0].shape
    area = math.prod(window["kernel_shape"])
    mean = graph.add("AveragePool", x, shape=shape, count_include_pad=1, **window)
    total = graph.add("Mul", mean, np.asarray(area, np.float32), shape=shape)
    counts = _pixels_in_windows(x.shape, params)

    def mean_by(divisor: np.ndarray) -> Tensor | None:
        if (divisor == area).all():
            return mean
        if divisor.shape in (counts.shape, counts.shape[1:]) and (divisor == counts).all():
            return graph.add("AveragePool", x, shape=shape, count_include_pad=0, **window)
        return None

    graph.means[total.name] = mean_by
    return total


def _window(params: dict) -> dict[str, Any]:
    inner = slice(1, 3)
    dilated = any(n != 1 for n in (*params["base_dilation"], *params["window_dilation"]))
    outer = [params[key][i] for key in ("window_dimensions", "window_strides") for i in (0, 3)]
    if dilated or any(n != 1 for n in outer) or any(map(any, params["padding"][::3])):
        raise ExportError("export cannot write this pool as ONNX")
    (top, bottom), (left, right) = params["padding"][inner]
    return {
        "kernel_shape": params["window_dimensions"][inner],
        "strides": params["window_strides"][inner],
        "pads": (top, left, bottom, right),
    }


def _pixels_in_windows(shape: tuple, params: dict) -> np.ndarray:
    """Returns the number of pixels in each window, as [1, h, w, 1]; padding is not counted.

    `shape` is the input's shape; `params` are the parameters of jax's window reduction.
    """
    counts = []
    for axis in (1, 2):
        low, high = params["padding"][axis]
        window, stride = params["window_dimensions"][axis], params["window_strides"][axis]
        starts = np.arange((shape[axis] + low + high - window) // stride + 1) * stride - low
        counts.append(np.minimum(starts + window, shape[axis]) - np.maximum(starts, 0))
    return np.outer(*counts)[None, :, :, None]

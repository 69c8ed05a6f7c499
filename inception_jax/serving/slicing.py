"""Translates jax's slices, pads, reversals and concatenations to ONNX nodes, for `primitives`.

Each function appends the ONNX nodes of one jax primitive to a graph, and returns their output. The
arguments are those of a `primitives.Handler`: `params` are the primitive's parameters, and
`results` the shapes and dtypes of its outputs.
"""

from __future__ import annotations

import numpy as np

from inception_jax.serving.export_error import ExportError
from inception_jax.serving.onnx_graph import Graph, Operand, Tensor, axis_of


def concatenate(graph: Graph, params: dict, results: list, *operands: Operand) -> Tensor:
    """Appends a node that concatenates tensors along an axis; returns its output.

    This is the `primitives.Handler` of jax's `concatenate`, with the arguments explained there.
    """
    shape = results[0].shape
    return graph.add(
        "Concat", *operands, shape=shape, axis=axis_of(params["dimension"], len(shape))
    )


def split(graph: Graph, params: dict, results: list, x: Tensor) -> list[Tensor]:
    """Appends a node that splits a tensor along an axis; returns the parts in order.

    This is the `primitives.Handler` of jax's `split`, with the arguments explained there.
    """
    sizes = np.asarray(params["sizes"], np.int64)
    axis = axis_of(params["axis"], len(x.shape))
    return graph.add_many("Split", x, sizes, shapes=[r.shape for r in results], axis=axis)


def strided_slice(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    """Appends a node that slices every axis, possibly with strides; returns its output.

    This is the `primitives.Handler` of jax's `slice`, with the arguments explained there.
    """
    strides = params["strides"] or (1,) * len(x.shape)
    cuts = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return _slice(graph, x, dict(enumerate(cuts)), results[0].shape)


def gather(graph: Graph, params: dict, results: list, x: Tensor, indices: Operand) -> Tensor:
    """Appends a strided slice for a gather that takes every n-th index of some axes.

    Returns the slice's output. jax expresses x[:, ::2] as such a gather if the batch size is
    unknown.

    This is the `primitives.Handler` of jax's `gather`, with the arguments explained there.

    Raises:
        ExportError: for any other gather.
    """
    numbers, rank = params["dimension_numbers"], len(x.shape)
    axes = numbers.start_index_map
    rest = tuple(axis for axis in range(rank) if axis not in axes)
    whole = numbers.collapsed_slice_dims == axes and numbers.offset_dims == rest
    whole &= all(params["slice_sizes"][axis] == x.shape[axis] for axis in rest)
    if not whole or not isinstance(indices, np.ndarray) or indices.ndim != len(axes) + 1:
        raise ExportError("export cannot write this gather as ONNX")
    ends = indices[(0,) * len(axes)], indices[(-1,) * len(axes)]
    cuts = {}
    for axis, first, last, count in zip(axes, *ends, indices.shape[:-1], strict=True):
        cuts[axis] = int(first), int(last) + 1, int(last - first) // max(count - 1, 1) or 1
    steps = np.stack(np.meshgrid(*(range(*cut) for cut in cuts.values()), indexing="ij"), -1)
    if not np.array_equal(steps, indices):
        raise ExportError("export cannot write a gather of uneven steps as ONNX")
    return _slice(graph, x, cuts, results[0].shape)


def rev(graph: Graph, params: dict, results: list, x: Tensor) -> Tensor:
    """Appends a node that reverses the order of elements along some axes; returns its output.

    This is the `primitives.Handler` of jax's `rev`, with the arguments explained there.
    """
    backwards = (-1, np.iinfo(np.int64).min, -1)
    return _cut(graph, x, dict.fromkeys(params["dimensions"], backwards), x.shape)


def pad(graph: Graph, params: dict, results: list, x: Tensor, value: Operand) -> Tensor:
    """Appends a node that pads a tensor; returns its output.

    Negative padding crops the tensor.

    This is the `primitives.Handler` of jax's `pad`, with the arguments explained there.

    Raises:
        ExportError: for padding between pixels.
    """
    if any(inside for _, _, inside in params["padding_config"]):
        raise ExportError("export cannot write padding between pixels as ONNX")
    ends = np.zeros((2, len(x.shape)), np.int64)
    for axis, (low, high, _) in enumerate(params["padding_config"]):
        ends[:, axis_of(axis, len(x.shape))] = low, high
    return graph.add("Pad", x, ends.reshape(-1), value, shape=results[0].shape)


def _slice(graph: Graph, x: Tensor, cuts: dict[int, tuple], shape: tuple) -> Tensor:
    needed = {axis: cut for axis, cut in cuts.items() if cut != (0, x.shape[axis], 1)}
    result = _cut(graph, x, needed, shape)
    whole = all(-(-x.shape[axis] // cut[2]) == shape[axis] for axis, cut in needed.items())
    first = all(cut[0] == 0 for cut in needed.values())
    if whole and first and len(x.shape) == 4 and set(needed) <= {1, 2}:
        graph.strided[result.name] = x, (needed.get(1, (1,))[-1], needed.get(2, (1,))[-1])
    return result


def _cut(graph: Graph, x: Tensor, cuts: dict[int, tuple], shape: tuple) -> Tensor:
    """Appends a node that slices some axes; returns its output.

    Args:
        graph: graph to append to.
        x: tensor to slice.
        cuts: (start, end, step) by axis, in jax's order of axes.
        shape: shape of the result.
    """
    axes = np.asarray([axis_of(axis, len(x.shape)) for axis in cuts], np.int64)
    starts, ends, steps = np.asarray(list(cuts.values()), np.int64).reshape(-1, 3).T
    return graph.add("Slice", x, starts, ends, axes, steps, shape=shape)

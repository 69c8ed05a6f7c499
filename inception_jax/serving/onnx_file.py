"""Writes ONNX files. Only this module needs the package `onnx`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

from inception_jax.nn import ops, rewrites
from inception_jax.serving.export_error import ExportError
from inception_jax.serving.lowering import lower
from inception_jax.serving.onnx_folding import fold_channels
from inception_jax.serving.onnx_graph import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Graph,
    Node,
    Operand,
    Tensor,
)
from inception_jax.serving.program import Program

# From 2022: runtimes of today support it, and nothing newer is needed.
OPSET, IR_VERSION = 17, 8
INPUT = "images"


def from_program(program: Program) -> bytes:
    """Returns the bytes of an ONNX file with this program.

    Raises:
        ExportError: for anything that ONNX cannot express.
    """
    # Plain convolutions, each with its BatchNorm right after it: runtimes fuse both with a ReLU.
    with ops.forced_form("native"), rewrites.rewritten():
        traced = jax.make_jaxpr(_results_in_order(program))(program.images)
    graph = Graph()
    images = Tensor(INPUT, program.images.shape)
    first = graph.add("Transpose", images, shape=images.shape, perm=CHANNELS_FIRST)
    results = [_output(graph, result) for result in lower(graph, traced, [first])]
    fold_channels(graph, [result.name for result in results])
    content = _model(graph, program, results).SerializeToString()
    onnx.checker.check_model(content)
    return content


def _results_in_order(program: Program) -> Callable[[Any], list[Any]]:
    # Not the dictionary itself, which jax sorts by name.
    def function(images: Any) -> list[Any]:
        results = program.function(images)
        return [results[name] for name in program.outputs]

    return function


def _output(graph: Graph, result: Operand) -> Tensor:
    if not isinstance(result, Tensor):
        raise ExportError("the network's result does not depend on its images")
    if len(result.shape) == 4:
        return graph.add("Transpose", result, shape=result.shape, perm=CHANNELS_LAST)
    return result


def _model(graph: Graph, program: Program, results: list[Tensor]) -> onnx.ModelProto:
    names = {result.name: name for result, name in zip(results, program.outputs, strict=True)}
    nodes = [_node(node, names) for node in graph.nodes]
    images = _described(INPUT, program.images.dtype, program.images.shape)
    outputs = [
        _described(names[result.name], np.dtype(np.float32), result.shape) for result in results
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    name = program.name or "network"
    whole = helper.make_graph(nodes, name, [images], outputs, constants)
    model = helper.make_model(
        whole,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="inception_jax",
    )
    helper.set_model_props(model, {"inception_jax": json.dumps(program.facts)})
    return model


def _node(node: Node, renamed: dict[str, str]) -> onnx.NodeProto:
    outputs = [renamed.get(name, name) for name in node.outputs]
    proto = helper.make_node(node.op, node.inputs, outputs, name=node.outputs[0])
    for key, value in node.attributes.items():
        plain = helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value
        proto.attribute.append(helper.make_attribute(key, plain))
    return proto


def _described(name: str, dtype: np.dtype, shape: tuple) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    return helper.make_tensor_value_info(name, kind, ["batch", *shape[1:]])

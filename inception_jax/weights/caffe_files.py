"""Reads the weights in Caffe files (`.caffemodel`)."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.weights.torch_names import Tensors
from inception_jax.weights.weights_error import WeightsError, damaged, optional_library

# The fields of caffe.proto with weights: name, number, type, label. Caffe wrote `layers` in 2014,
# and has written `layer` since.
_FIELDS = {
    "Shape": [("dim", 1, "INT64", "REPEATED")],
    "Blob": [
        ("num", 1, "INT32", "OPTIONAL"),
        ("channels", 2, "INT32", "OPTIONAL"),
        ("height", 3, "INT32", "OPTIONAL"),
        ("width", 4, "INT32", "OPTIONAL"),
        ("data", 5, "FLOAT", "REPEATED"),
        ("shape", 7, "Shape", "OPTIONAL"),
        ("double_data", 8, "DOUBLE", "REPEATED"),
    ],
    "Layer": [("name", 1, "STRING", "OPTIONAL"), ("blobs", 7, "Blob", "REPEATED")],
    "OldLayer": [("name", 4, "STRING", "OPTIONAL"), ("blobs", 6, "Blob", "REPEATED")],
    "Net": [("layers", 2, "OldLayer", "REPEATED"), ("layer", 100, "Layer", "REPEATED")],
}


def read(path: Path) -> Tensors:
    """Reads the blobs of a `.caffemodel` file.

    Returns:
        Arrays by the name of the layer and the index of the blob, such as `conv1/0`.

    Raises:
        WeightsError: if the file is damaged or another kind of file.
    """
    message = optional_library("google.protobuf.message", path)
    net = _net_class()()
    try:
        net.ParseFromString(path.read_bytes())
        tensors = {
            f"{layer.name}/{i}": _array(blob)
            for layer in [*net.layers, *net.layer]
            for i, blob in enumerate(layer.blobs)
        }
    except (message.DecodeError, ValueError) as error:
        raise damaged(path, ".caffemodel file", error) from None
    if not tensors:
        raise WeightsError(f"{path} is not a .caffemodel file: it has no layers with weights")
    return tensors


def _array(blob: Any) -> np.ndarray:
    shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
    data = np.asarray(blob.double_data or blob.data, np.float64 if blob.double_data else np.float32)
    return data.reshape(shape)


@functools.cache
def _net_class() -> Any:
    descriptor_pb2 = importlib.import_module("google.protobuf.descriptor_pb2")
    pool = importlib.import_module("google.protobuf.descriptor_pool").DescriptorPool()
    factory = importlib.import_module("google.protobuf.message_factory")
    field_class = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="weights.proto", package="inception_jax")
    for message, fields in _FIELDS.items():
        entry = file.message_type.add(name=message)
        for name, number, kind, label in fields:
            field = entry.field.add(
                name=name, number=number, label=field_class.Label.Value(f"LABEL_{label}")
            )
            if kind in _FIELDS:
                field.type, field.type_name = field_class.TYPE_MESSAGE, f".inception_jax.{kind}"
            else:
                field.type = field_class.Type.Value(f"TYPE_{kind}")
    pool.AddSerializedFile(file.SerializeToString())
    return factory.GetMessageClass(pool.FindMessageTypeByName("inception_jax.Net"))

"""Writes Caffe's weight files byte by byte, without Caffe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def blob(tensor: np.ndarray, old: bool) -> bytes:
    data = message(5, tensor.astype("<f4").tobytes())
    if not old:
        return message(7, message(1, b"".join(map(varint, tensor.shape)))) + data
    shape = (1,) * (4 - tensor.ndim) + tensor.shape
    return b"".join(number(i + 1, n) for i, n in enumerate(shape)) + data


def caffemodel(layers: Mapping[str, Sequence[np.ndarray]], old: bool = False) -> bytes:
    """Returns the bytes of a file with the blobs of each layer.

    Args:
        layers: blobs of each layer, such as kernel and bias, by the layer's name.
        old: whether to write the format of 2014 (V1LayerParameter) instead of the current one.
    """
    content = message(1, b"GoogleNet")
    for layer, blobs in layers.items():
        name, blob_field, layer_field = (4, 6, 2) if old else (1, 7, 100)
        body = message(name, layer.encode())
        body += b"".join(message(blob_field, blob(tensor, old)) for tensor in blobs)
        content += message(layer_field, body)
    return content

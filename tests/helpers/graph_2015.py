"""Writes a TensorFlow graph like `classify_image_graph_def.pb` of 2015-12-05, with given weights.

The published file contains the Inception V3 whose features define FID.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.weights.graph_layouts import _graph_places

SIDE = 299


def write_graph(path: Path, state: Mapping[str, np.ndarray], layers: Any) -> None:
    """Writes a graph with the operations, names and version of the published graph.

    Args:
        path: path of the file to write.
        state: weights to write: the PyTorch twin's tensors by name.
        layers: paths of the network's layers, from its attribute `layer_order`.
    """
    tf = __import__("tensorflow").compat.v1
    scopes = {path: scope for scope, path in _graph_places(layers)}
    with tf.Graph().as_default() as graph:
        _Builder(tf, state, scopes).build()
        definition = graph.as_graph_def()
    _add_norms(definition, scopes)
    definition.versions.producer = 8
    definition.versions.min_consumer = 0
    path.write_bytes(definition.SerializeToString())


def _add_norms(definition: Any, scopes: Mapping[str, str]) -> None:
    """Turns each normalisation into the operation `BatchNormWithGlobalNormalization`.

    TensorFlow still runs this operation, but can no longer add it to a new graph. So the graph is
    built with an `Identity` in its place.

    Args:
        definition: `GraphDef` of the network, which is changed in place.
        scopes: name of each convolution's scope in the graph, by its path in the PyTorch twin.
    """
    from tensorflow.core.framework import types_pb2

    norms = {f"{scope}/batchnorm": scope for scope in scopes.values()}
    for node in definition.node:
        if node.name in norms:
            node.op = "BatchNormWithGlobalNormalization"
            parts = ("moving_mean", "moving_variance", "beta", "gamma")
            node.input.extend(f"{node.name}/{part}" for part in parts)
            node.attr["variance_epsilon"].f = 0.001
            node.attr["scale_after_normalization"].b = True
            node.attr["T"].type = types_pb2.DT_FLOAT


class _Builder:
    def __init__(self, tf: Any, state: Mapping[str, np.ndarray], scopes: Mapping[str, str]):
        self.tf, self.state, self.scopes = tf, state, scopes

    def build(self) -> None:
        tf = self.tf
        image = tf.placeholder(tf.uint8, [None, None, 3], name="DecodeJpeg")
        x = tf.expand_dims(tf.cast(image, tf.float32, name="Cast"), 0, name="ExpandDims")
        size = tf.constant([SIDE, SIDE], name="ResizeBilinear/size")
        x = tf.raw_ops.ResizeBilinear(images=x, size=size, name="ResizeBilinear")
        x = tf.subtract(x, tf.constant(128.0, name="Sub/y"), name="Sub")
        x = tf.multiply(x, tf.constant(1 / 128, name="Mul/y"), name="Mul")
        x = self.conv(x, "Conv2d_1a_3x3", 2, "VALID")
        x = self.conv(x, "Conv2d_2a_3x3", 1, "VALID")
        x = self.conv(x, "Conv2d_2b_3x3")
        x = tf.nn.max_pool(x, 3, 2, "VALID", name="pool")
        x = self.conv(x, "Conv2d_3b_1x1", 1, "VALID")
        x = self.conv(x, "Conv2d_4a_3x3", 1, "VALID")
        x = tf.nn.max_pool(x, 3, 2, "VALID", name="pool_1")
        for i, name in enumerate(("Mixed_5b", "Mixed_5c", "Mixed_5d")):
            x = self.module_5(x, name, f"mixed_{i}" if i else "mixed")
        x = self.reduction_6(x)
        for i, name in enumerate(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), 4):
            x = self.module_6(x, name, f"mixed_{i}")
        x = self.reduction_7(x)
        x = self.module_7(x, "Mixed_7b", "mixed_9", tf.nn.avg_pool)
        x = self.module_7(x, "Mixed_7c", "mixed_10", tf.nn.max_pool)
        x = tf.nn.avg_pool(x, 8, 1, "VALID", name="pool_3")
        shape = tf.constant([1, 2048], name="pool_3/_reshape/shape")
        x = tf.reshape(x, shape, name="pool_3/_reshape")
        kernel = tf.constant(self.state["fc.weight"].T, name="softmax/weights")
        x = tf.matmul(x, kernel, name="softmax/logits/MatMul")
        bias = tf.constant(self.state["fc.bias"], name="softmax/biases")
        tf.nn.softmax(tf.nn.bias_add(x, bias, name="softmax/logits"), name="softmax")

    def conv(self, x: Any, place: str, stride: int = 1, padding: str = "SAME") -> Any:
        tf, scope = self.tf, self.scopes[place]
        kernel = self.state[f"{place}.conv.weight"].transpose(2, 3, 1, 0)
        kernel = tf.constant(kernel, name=f"{scope}/conv2d_params")
        x = tf.nn.conv2d(x, kernel, stride, padding, name=f"{scope}/Conv2D")
        norm = f"{scope}/batchnorm"
        for part, leaf in (
            ("moving_mean", "running_mean"),
            ("moving_variance", "running_var"),
            ("beta", "bias"),
            ("gamma", "weight"),
        ):
            tf.constant(self.state[f"{place}.bn.{leaf}"], name=f"{norm}/{part}")
        x = tf.identity(x, name=norm)  # see `_add_norms`
        x = tf.check_numerics(x, "", name=f"{scope}/CheckNumerics")
        return tf.nn.relu(x, name=scope)

    def join(self, scope: str, *branches: Any) -> Any:
        return self.tf.concat(list(branches), 3, name=f"{scope}/join")

    def module_5(self, x: Any, at: str, scope: str) -> Any:
        a = self.conv(x, f"{at}.branch1x1")
        b = self.conv(self.conv(x, f"{at}.branch5x5_1"), f"{at}.branch5x5_2")
        c = self.conv(self.conv(x, f"{at}.branch3x3dbl_1"), f"{at}.branch3x3dbl_2")
        c = self.conv(c, f"{at}.branch3x3dbl_3")
        pool = self.tf.nn.avg_pool(x, 3, 1, "SAME", name=f"{scope}/tower_2/pool")
        return self.join(scope, a, b, c, self.conv(pool, f"{at}.branch_pool"))

    def reduction_6(self, x: Any) -> Any:
        at, scope = "Mixed_6a", "mixed_3"
        a = self.conv(x, f"{at}.branch3x3", 2, "VALID")
        b = self.conv(self.conv(x, f"{at}.branch3x3dbl_1"), f"{at}.branch3x3dbl_2")
        b = self.conv(b, f"{at}.branch3x3dbl_3", 2, "VALID")
        pool = self.tf.nn.max_pool(x, 3, 2, "VALID", name=f"{scope}/pool")
        return self.join(scope, a, b, pool)

    def module_6(self, x: Any, at: str, scope: str) -> Any:
        a = self.conv(x, f"{at}.branch1x1")
        b = c = x
        for i in range(1, 4):
            b = self.conv(b, f"{at}.branch7x7_{i}")
        for i in range(1, 6):
            c = self.conv(c, f"{at}.branch7x7dbl_{i}")
        pool = self.tf.nn.avg_pool(x, 3, 1, "SAME", name=f"{scope}/tower_2/pool")
        return self.join(scope, a, b, c, self.conv(pool, f"{at}.branch_pool"))

    def reduction_7(self, x: Any) -> Any:
        at, scope = "Mixed_7a", "mixed_8"
        a = self.conv(self.conv(x, f"{at}.branch3x3_1"), f"{at}.branch3x3_2", 2, "VALID")
        b = x
        for i in range(1, 4):
            b = self.conv(b, f"{at}.branch7x7x3_{i}")
        b = self.conv(b, f"{at}.branch7x7x3_4", 2, "VALID")
        pool = self.tf.nn.max_pool(x, 3, 2, "VALID", name=f"{scope}/pool")
        return self.join(scope, a, b, pool)

    def module_7(self, x: Any, at: str, scope: str, pool: Any) -> Any:
        a = self.conv(x, f"{at}.branch1x1")
        b = self.conv(x, f"{at}.branch3x3_1")
        b = [self.conv(b, f"{at}.branch3x3_2{i}") for i in "ab"]
        c = self.conv(self.conv(x, f"{at}.branch3x3dbl_1"), f"{at}.branch3x3dbl_2")
        c = [self.conv(c, f"{at}.branch3x3dbl_3{i}") for i in "ab"]
        d = pool(x, 3, 1, "SAME", name=f"{scope}/tower_2/pool")
        return self.join(scope, a, *b, *c, self.conv(d, f"{at}.branch_pool"))

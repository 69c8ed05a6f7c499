"""TF-slim's networks (`nets` in tensorflow/models) and FaceNet, as graphs of TensorFlow 1."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.helpers.peers.runtime import DTYPES, Size, hostile, kernel, library

NORM = "BatchNorm"


class InSlim:
    """A network of TF-slim's `nets.inception` with random weights, with the interface `Theirs`.

    It has the 1,001 classes of the published checkpoints.

    Args:
        name: name of the network in `nets.inception`, such as "inception_v3".
        size: height and width of the images of the network in the written checkpoints, and of the
            random images from which BatchNorm's statistics are computed. If it is not the network's
            default size, there is no auxiliary classifier. `logits` takes images of any size that
            the network supports.

    Raises:
        AbsentRuntimeError: if TensorFlow, TF-slim or its networks cannot be imported.
    """

    dtypes = DTYPES
    share = 1.0  # weight of a batch in the updated running statistics

    def __init__(self, name: str, size: Size):
        self.name, self.size = name, size
        self.tf, self.slim, self.inception = self._libraries()
        rng = np.random.default_rng(0)
        with self._graph(size, "float32", training=True) as (session, images, logits):
            self.values = {v.op.name: _drawn(rng, v.op.name, v.shape) for v in _variables(self.tf)}
            self._assign(session, self.values)
            updates = self.tf.compat.v1.get_collection(self.tf.compat.v1.GraphKeys.UPDATE_OPS)
            session.run([logits, updates], {images: rng.normal(size=(4, *size, 3))})
            found = session.run({v.op.name: v for v in _variables(self.tf)})
        for name in found:
            if "/moving_" in name:
                found[name] /= np.float32(self.share)
        self.values = _with_hostile_statistics(rng, found)

    def write(self, folder: Path) -> list[Path]:
        """Writes checkpoints in the formats of 2016 (V1) and of today (V2); returns their paths."""
        versions = self.tf.compat.v1.train.SaverDef
        old, new = folder / f"{self.name}.ckpt", folder / "model.ckpt-7"
        with self._graph(self.size, "float32") as (session, _, _):
            self._assign(session, self.values)
            for path, version in {old: versions.V1, new: versions.V2}.items():
                saver = self.tf.compat.v1.train.Saver(write_version=version)
                saver.save(session, str(path))
        return [old, Path(f"{new}.index")]

    def logits(self, images: np.ndarray) -> np.ndarray:
        with self._graph(images.shape[1:3], str(images.dtype), len(images)) as parts:
            session, placeholder, logits = parts
            self._assign(session, self.values)
            return session.run(logits, {placeholder: images})

    def _assign(self, session: Any, values: dict[str, np.ndarray]) -> None:
        # Assigns all variables in one call: `Variable.load` takes half a minute.
        feeds = {v.initializer.inputs[1]: values[v.op.name] for v in _variables(self.tf)}
        session.run([v.initializer for v in _variables(self.tf)], feeds)

    @contextlib.contextmanager
    def _graph(
        self, size: Any, dtype: str, n: int = 4, training: bool = False
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Builds the network in a new graph; yields a session, the placeholder and the logits.

        Args:
            size: height and width of the images.
            dtype: dtype of the images and of the computation.
            n: number of images in a batch.
            training: build the network for training, where BatchNorm uses the batch's statistics.
        """
        tf = self.tf.compat.v1
        with tf.Graph().as_default():
            images = tf.placeholder(dtype, [n, *size, 3])
            logits = self._network(images, training)
            with tf.Session() as session:
                yield session, images, logits

    def _network(self, images: Any, training: bool) -> Any:
        network = getattr(self.inception, self.name)
        # If the images do not have the network's default size, the auxiliary head's kernel has
        # another size, and the final pool of V1 to V3 must be made global.
        options = {}
        if tuple(images.shape[1:3]) != (network.default_image_size,) * 2:
            takes = inspect.signature(network).parameters
            others = {"create_aux_logits": False, "global_pool": True}
            options = {name: value for name, value in others.items() if name in takes}
        # With decay 0, the old running statistics have no weight.
        scope = getattr(self.inception, f"{self.name}_arg_scope")(batch_norm_decay=0.0)
        with self.slim.arg_scope(scope):
            return network(images, 1001, is_training=training, **options)[0]

    def _libraries(self) -> tuple[Any, Any, Any]:
        return (*_slim(), of_research("nets.inception"))


class InFaceNet(InSlim):
    """David Sandberg's FaceNet with random weights, with the interface `Theirs`.

    The weights in facenet-pytorch's files were trained with this code.

    Args:
        classes: number of classes.
        size: height and width of the images, as in `InSlim`.

    Raises:
        AbsentRuntimeError: if TensorFlow, TF-slim or FaceNet cannot be imported.
    """

    share = 0.005

    def __init__(self, classes: int, size: Size):
        self.classes = classes
        super().__init__("inception_resnet_v1", size)

    def _network(self, images: Any, training: bool) -> Any:
        """Builds FaceNet as its `train_softmax.py` does; returns the logits of the images."""
        # TensorFlow's fused kernel of BatchNorm has no float64.
        with self.slim.arg_scope([self.slim.batch_norm], fused=False):
            embedding, _ = self.inception.inference(images, 1.0, training, 512)
        return self.slim.fully_connected(
            embedding, self.classes, activation_fn=None, scope="Logits"
        )

    def _libraries(self) -> tuple[Any, Any, Any]:
        tf, slim = _slim()
        library("facenet")
        # FaceNet's code imports TensorFlow 1.
        v1, contrib = tf.compat.v1, types.SimpleNamespace(slim=slim)
        names = {"": v1, ".contrib": contrib, ".contrib.slim": slim}
        there = {f"tensorflow{name}": module for name, module in names.items()}
        with (
            mock.patch.dict(sys.modules, there),
            mock.patch.object(v1, "contrib", contrib, create=True),
        ):
            return tf, slim, library("facenet.src.models.inception_resnet_v1")


def _slim() -> tuple[Any, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = library("tensorflow")
    # TF-slim's BatchNorm uses names that later versions of TensorFlow and Keras have moved.
    ops = library("tensorflow.python.framework.ops")
    ops.Tensor = getattr(ops, "Tensor", tf.Tensor)
    library("tf_keras")
    for name in ("legacy_tf_layers", "legacy_tf_layers.normalization"):
        sys.modules.setdefault(f"tf_keras.{name}", library(f"tf_keras.src.{name}"))
    return tf, library("tf_slim")


def of_research(name: str) -> Any:
    """Imports a module of the folder research/slim in tensorflow/models.

    The folder is not a package, but the package tf-models-research-object-detection contains it.

    Raises:
        AbsentRuntimeError: if the module is neither on `sys.path` nor in that package.
    """
    others = importlib.util.find_spec("object_detection")
    for folder in (others.submodule_search_locations or []) if others else []:
        if folder not in sys.path:
            sys.path.append(folder)
    return library(name)


def _variables(tf: Any) -> list[Any]:
    return tf.compat.v1.global_variables()


def _drawn(rng: np.random.Generator, name: str, shape: Any) -> np.ndarray:
    shape, leaf = tuple(shape), name.rpartition("/")[2]
    if leaf.startswith("moving_"):
        return np.zeros(shape, np.float32)
    if len(shape) < 2:
        return rng.normal(0, 0.1, shape).astype(np.float32)
    fan_in = np.prod(shape[:2] if leaf == "depthwise_weights" else shape[:-1])
    return kernel(rng, shape, int(fan_in))


def _with_hostile_statistics(
    rng: np.random.Generator, values: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    values = dict(values)
    for name in [name for name in values if name.endswith(f"{NORM}/moving_mean")]:
        scope = name.removesuffix(f"/{NORM}/moving_mean")
        mean, variance, few = hostile(rng, values[name], values[f"{scope}/{NORM}/moving_variance"])
        # BatchNorm has no scale here, so the kernel is scaled down instead.
        weights = values[f"{scope}/weights"].copy()
        weights[..., few] *= 1e-2
        mean[few] *= 1e-2
        values[f"{scope}/weights"] = weights
        values[name], values[f"{scope}/{NORM}/moving_variance"] = mean, variance
    return values

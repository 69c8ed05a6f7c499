"""Networks of `keras.applications` with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.peers.runtime import DTYPES, Size, hostile, kernel, library

ENDINGS = (".weights.h5", ".h5", ".keras")


class InKeras:
    """A network of `keras.applications` with random weights, with the interface `Theirs`.

    Args:
        name: name of the network in `keras.applications`, such as "InceptionV3".
        size: height and width of the images that the network in the written files takes. `logits`
            takes images of any size that the network supports.

    Raises:
        AbsentRuntimeError: if Keras cannot be imported.
    """

    dtypes = DTYPES

    def __init__(self, name: str, size: Size):
        self.keras = library("keras")
        self.application = getattr(self.keras.applications, name)
        self.size = size
        network = self.build(size, "float32")
        self._fill(network, size)
        self.weights = network.get_weights()

    def build(self, size: Size, dtype: str) -> Any:
        self.keras.config.set_floatx(dtype)
        self.keras.config.set_dtype_policy(dtype)  # otherwise the first network's policy stays
        shape = (*size, 3)
        return self.application(weights=None, input_shape=shape, classifier_activation=None)

    def write(self, folder: Path) -> list[Path]:
        network = self._with_weights(self.size, "float32")
        paths = [folder / f"theirs{ending}" for ending in ENDINGS]
        for path in paths:
            weights_alone = path.name.endswith(ENDINGS[0])
            (network.save_weights if weights_alone else network.save)(path)
        return paths

    def logits(self, images: np.ndarray) -> np.ndarray:
        network = self._with_weights(images.shape[1:3], str(images.dtype))
        return np.asarray(network(images))

    def _with_weights(self, size: Any, dtype: str) -> Any:
        network = self.build(size, dtype)
        network.set_weights(self.weights)
        return network

    def _fill(self, network: Any, size: Size) -> None:
        rng = np.random.default_rng(0)
        norms = [x for x in network.layers if type(x).__name__ == "BatchNormalization"]
        for layer in network.layers:
            if layer not in norms:
                layer.set_weights([_drawn(rng, x.shape) for x in layer.get_weights()])
            else:
                *affine, mean, variance = layer.get_weights()
                shift = rng.normal(0, 0.1, mean.shape)
                scale = [rng.uniform(0.5, 1.5, mean.shape)] * layer.scale
                layer.set_weights([*scale, shift, mean, variance])
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        network(rng.normal(size=(4, *size, 3)).astype(np.float32), training=True)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            *affine, mean, variance = norm.get_weights()
            mean, variance, few = hostile(rng, mean, variance)
            if norm.scale:
                affine[0][few] *= 1e-2
            else:  # scales the kernel of the convolution before it
                convolution = norm.input._keras_history.operation
                kernels, *rest = convolution.get_weights()
                kernels[..., few] *= 1e-2
                convolution.set_weights([kernels, *rest])
                mean[few] *= 1e-2
            norm.set_weights([*affine, mean, variance])


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return rng.normal(0, 0.1, shape)
    depthwise = len(shape) == 4 and shape[3] == 1
    return kernel(rng, shape, int(np.prod(shape[:2] if depthwise else shape[:-1])))

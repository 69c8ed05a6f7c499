"""Runs GoogLeNet in Caffe, and in OpenCV, which reads Caffe's files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.caffemodel import caffemodel
from tests.helpers.peers.runtime import AbsentRuntimeError, Size, kernel, library

CLASSIFIER = "loss3/classifier"
# Table 1 of the paper: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj.
_MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "pool3/3x3_s2": None,
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "pool4/3x3_s2": None,
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Prototxt:
    """GoogLeNet as a Caffe `prototxt`; the last pool covers the whole map at any image size.

    Args:
        n: number of images in a batch.
        size: height and width of the images.

    Attributes:
        text: text of the file.
        shapes: shapes of the kernels [out, in, h, w] by layer name; the classifier's is [out, in].
    """

    def __init__(self, n: int, size: Size):
        dims = " ".join(f"dim: {x}" for x in (n, 3, *size))
        self.text = 'name: "GoogleNet"\nlayer { name: "data" type: "Input" top: "data" '
        self.text += f"input_param {{ shape {{ {dims} }} }} }}\n"
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.channels = {"data": 3}
        x = self.conv("conv1/7x7_s2", "data", 64, 7, stride=2, pad=3)
        x = self.lrn("pool1/norm1", self.pool("pool1/3x3_s2", x, stride=2))
        x = self.conv("conv2/3x3", self.conv("conv2/3x3_reduce", x, 64, 1), 192, 3, pad=1)
        x = self.pool("pool2/3x3_s2", self.lrn("conv2/norm2", x), stride=2)
        for name, widths in _MODULES.items():
            x = self.inception(name, x, *widths) if widths else self.pool(name, x, stride=2)
        parameters = "pooling_param { pool: AVE global_pooling: true }"
        x = self.layer("pool5/7x7_s1", "Pooling", [x], self.channels[x], parameters)
        self.shapes[CLASSIFIER] = (1000, self.channels[x])
        parameters = "inner_product_param { num_output: 1000 }"
        self.layer(CLASSIFIER, "InnerProduct", [x], 1000, parameters)

    def layer(self, name: str, kind: str, of: list[str], channels: int, parameters: str) -> str:
        bottoms = " ".join(f'bottom: "{x}"' for x in of)
        self.text += f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{name}" '
        self.text += f"{parameters} }}\n"
        self.channels[name] = channels
        return name

    def conv(self, name: str, x: str, channels: int, window: int, stride: int = 1, pad: int = 0):
        self.shapes[name] = (channels, self.channels[x], window, window)
        parameters = f"convolution_param {{ num_output: {channels} kernel_size: {window} "
        parameters += f"stride: {stride} pad: {pad} }}"
        self.layer(name, "Convolution", [x], channels, parameters)
        at = f'bottom: "{name}" top: "{name}"'
        self.text += f'layer {{ name: "{name}_relu" type: "ReLU" {at} }}\n'
        return name

    def pool(self, name: str, x: str, stride: int, pad: int = 0) -> str:
        parameters = f"pooling_param {{ pool: MAX kernel_size: 3 stride: {stride} pad: {pad} }}"
        return self.layer(name, "Pooling", [x], self.channels[x], parameters)

    def lrn(self, name: str, x: str) -> str:
        parameters = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
        return self.layer(name, "LRN", [x], self.channels[x], parameters)

    def inception(self, name: str, x: str, c1: int, r3: int, c3: int, r5: int, c5: int, cp: int):
        at = f"inception_{name}"
        branches = [
            self.conv(f"{at}/1x1", x, c1, 1),
            self.conv(f"{at}/3x3", self.conv(f"{at}/3x3_reduce", x, r3, 1), c3, 3, pad=1),
            self.conv(f"{at}/5x5", self.conv(f"{at}/5x5_reduce", x, r5, 1), c5, 5, pad=2),
            self.conv(f"{at}/pool_proj", self.pool(f"{at}/pool", x, stride=1, pad=1), cp, 1),
        ]
        return self.layer(f"{at}/output", "Concat", branches, c1 + c3 + c5 + cp, "")


def numbers() -> dict[str, list[np.ndarray]]:
    """Returns a random kernel and bias for each layer, by layer name."""
    rng = np.random.default_rng(0)
    return {
        layer: [
            kernel(rng, shape, int(np.prod(shape[1:]))),
            rng.normal(0, 0.1, shape[0]).astype(np.float32),
        ]
        for layer, shape in Prototxt(1, (224, 224)).shapes.items()
    }


class InCaffe:
    """GoogLeNet in Caffe with random weights, with the interface `Theirs`.

    It computes in float32, or in float64 if Caffe was built with it. Caffe writes the weight file.

    Raises:
        AbsentRuntimeError: if Caffe cannot be imported.
    """

    def __init__(self) -> None:
        os.environ.setdefault("GLOG_minloglevel", "2")
        self.caffe = library("caffe")
        self.blobs = numbers()
        # float32, or float64 if Caffe was built with it.
        self.dtypes = (str(self._network(1, (224, 224)).blobs["data"].data.dtype),)

    def _network(self, n: int, size: Any) -> Any:
        with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
            file.write(Prototxt(n, size).text)
            file.flush()
            network = self.caffe.Net(file.name, self.caffe.TEST)
        for layer, blobs in self.blobs.items():
            for blob, array in zip(network.params[layer], blobs, strict=True):
                blob.data[...] = array
        return network

    def write(self, folder: Path) -> list[Path]:
        path = folder / "bvlc_googlenet.caffemodel"
        self._network(1, (224, 224)).save(str(path))
        return [path]

    def logits(self, images: np.ndarray) -> np.ndarray:
        network = self._network(len(images), images.shape[1:3])
        network.blobs["data"].data[...] = images.transpose(0, 3, 1, 2)
        network.forward()
        return np.array(network.blobs[CLASSIFIER].data)


class InOpenCV:
    """GoogLeNet in OpenCV with random weights, with the interface `Theirs`.

    It computes in float32. `caffemodel` writes the weight file. Since version 5, OpenCV does not
    read Caffe's files.

    Raises:
        AbsentRuntimeError: if OpenCV cannot be imported, or is of version 5 or later.
    """

    dtypes = ("float32",)

    def __init__(self) -> None:
        self.dnn = library("cv2").dnn
        if not hasattr(self.dnn, "readNetFromCaffe"):
            raise AbsentRuntimeError("OpenCV reads no files of Caffe since version 5")
        self.content = caffemodel(numbers())

    def write(self, folder: Path) -> list[Path]:
        path = folder / "bvlc_googlenet.caffemodel"
        path.write_bytes(self.content)
        return [path]

    def logits(self, images: np.ndarray) -> np.ndarray:
        text = Prototxt(len(images), images.shape[1:3]).text.encode()
        network = self.dnn.readNetFromCaffe(bytearray(text), bytearray(self.content))
        network.setInput(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        return network.forward(CLASSIFIER).reshape(len(images), -1)

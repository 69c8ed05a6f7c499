"""Tests what BatchNorm statistics reveal about a network's training images and average pools.

The statistics show the images' range and colours, and whether pools count the border.
"""

from __future__ import annotations

import numpy as np
import pytest

import inception_jax as ij
from inception_jax.nn.layers import IMAGENET_MEAN, IMAGENET_STD
from inception_jax.weights import fingerprint
from inception_jax.weights.fingerprint import border_of_pools, counts_border, input_of
from inception_jax.weights.inspection import inspect
from tests.helpers.networks import filled

COLOURS = np.array([0.5, 0.45, 0.38])
INPUTS = {
    "in [-1, 1]": (0.5, 0.5),
    "in [0, 1]": (0.0, 1.0),
    "in [0, 255]": (0.0, 1 / 255),
    "normalised with ImageNet's mean and deviation": (IMAGENET_MEAN, IMAGENET_STD),
    "in [0, 255], less their mean": (COLOURS, 1 / 255),
}


def seen(pixels: str, order: str = "RGB") -> np.ndarray:
    """Returns photo-like images in the value range and colour order of a network's input.

    `pixels` is a key of `INPUTS`, which lists ranges. The images differ from those that
    `fingerprint` compares with.
    """
    images = fingerprint.natural_images(40, 5) + COLOURS
    subtracted, divisor = INPUTS[pixels]
    images = (images - subtracted) / np.asarray(divisor)
    return images[..., ::-1] if order == "BGR" else images


def first_layer(images: np.ndarray, bias: float = 0.0) -> dict[str, np.ndarray]:
    kernel = np.random.default_rng(1).normal(size=(16, 3, 3, 3)).astype(np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    maps = np.einsum("nhwcij,ocij->nhwo", patches, kernel) + bias
    stats = {"running_mean": maps.mean((0, 1, 2)), "running_var": maps.var((0, 1, 2))}
    layer = {"c.conv.weight": kernel, **{f"c.bn.{name}": x for name, x in stats.items()}}
    return layer | ({"c.conv.bias": np.full(16, bias)} if bias else {})


@pytest.mark.parametrize("pixels", INPUTS)
def test_the_input_of_a_network(pixels):
    found = input_of(first_layer(seen(pixels)), "c")
    assert found is not None
    assert found.range == pixels
    same_for_all = pixels.startswith("in") and "less" not in pixels
    assert found.order == ("RGB" if same_for_all else "")
    if "less" not in pixels:
        np.testing.assert_allclose(found.mean, COLOURS, atol=0.02)


def test_the_order_of_colours_and_biases():
    for order in ("RGB", "BGR"):
        found = input_of(first_layer(seen("in [-1, 1]", order), bias=3.0), "c")
        assert found is not None
        assert found.order == order
    grey = np.repeat(seen("in [-1, 1]")[..., 1:2], 3, axis=-1)
    found = input_of(first_layer(grey), "c")
    assert found is not None
    assert found.order == ""


def test_what_tells_nothing():
    layer = first_layer(seen("in [-1, 1]"))
    assert input_of(layer, "another") is None
    assert input_of({**layer, "c.bn.running_var": np.ones(16)}, "c") is None  # never trained
    between = (seen("in [-1, 1]") + seen("in [0, 1]")) * 3  # no usual mapping
    assert input_of(first_layer(between + 5), "c") is None


@pytest.mark.parametrize("counts", [True, False])
def test_the_border_of_average_pools(counts):
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.normal(0.3, 1, (6, 8, 8, 48)), 0)
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)).sum((-1, -2))
    inside = np.pad(np.ones((8, 8)), 1)
    sizes = np.lib.stride_tricks.sliding_window_view(inside, (3, 3)).sum((-1, -2))[..., None]
    pooled = windows / (9 if counts else sizes)
    tensors = {}
    for branch, x in (("1x1", maps), ("3x3_1", maps), ("3x3dbl_1", maps), ("_pool", pooled)):
        kernel = rng.normal(size=(20, 48)) / 7
        name = f"Mixed_7b.branch{branch}"
        tensors[f"{name}.conv.weight"] = kernel[:, :, None, None]
        tensors[f"{name}.bn.running_mean"] = (x @ kernel.T).mean((0, 1, 2))
        tensors[f"{name}.bn.running_var"] = (x @ kernel.T).var((0, 1, 2))
    share = border_of_pools(tensors, "inception_v3")
    assert share == pytest.approx(float(counts), abs=0.15)
    assert counts_border(share) is counts
    assert border_of_pools(tensors, "inception_v4") is None
    assert border_of_pools({}, "inception_v3") is None
    assert counts_border(0.5) is None


def test_what_names_expect():
    expected = {
        "inception_v3.tv_in1k": "in [-1, 1]",  # ImageNet's mean, undone by transform_input
        "inception_v3.tf_in1k": "in [-1, 1]",
        "inception_v3.gluon_in1k": "normalised with ImageNet's mean and deviation",
        "bn_inception.caffe_in1k": "in [0, 255], less their mean",
    }
    for name, pixels in expected.items():
        assert fingerprint.expected_input(ij.model_info(name)) == pixels


@pytest.mark.slow
def test_inspect_names_the_likeliest():
    file = ij.to_torch(filled("inception_v3.tv_in1k", num_classes=10, width_multiplier=0.125))
    file = {k: np.abs(x) + 0.1 if k.endswith("running_var") else x for k, x in file.items()}
    kernel = file["Conv2d_1a_3x3.conv.weight"]
    layer = first_layer(seen("normalised with ImageNet's mean and deviation"))
    assert kernel.shape == layer["c.conv.weight"].shape
    file |= {name.replace("c.", "Conv2d_1a_3x3.", 1): x for name, x in layer.items()}
    facts = inspect(file).facts
    assert facts["trained on"].startswith("pixels normalised with ImageNet's mean and deviation")
    assert "inception_v3.tf_in1k" not in facts["most likely"]
    assert "a hint" in facts["most likely"]

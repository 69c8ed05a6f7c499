"""Tests that Caffe's GoogLeNet loads from `.caffemodel` files, which the tests encode."""

from __future__ import annotations

import numpy as np
import pytest

import inception_jax as ij
from tests.helpers.caffemodel import caffemodel, message
from tests.helpers.networks import CLASSES, WIDTH, random_images, run, skeleton
from tests.helpers.twins import pair

NAME = "inception_v1.bvlc_in1k"
CONVS = ["1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj"]
LAYERS = ["conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3"]
for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
    LAYERS += [f"inception_{block}/{conv}" for conv in CONVS]
    loss = {"4a": "loss1", "4d": "loss2"}.get(block)
    if loss:
        LAYERS += [f"{loss}/conv", f"{loss}/fc", f"{loss}/classifier"]
LAYERS += ["loss3/classifier"]


def as_caffemodel(state: dict[str, np.ndarray], old: bool) -> bytes:
    kernels = [name for name in state if name.endswith(".weight")]
    pairs = [(state[name], state[name.replace(".weight", ".bias")]) for name in kernels]
    return caffemodel(dict(zip(LAYERS, pairs, strict=True)), old)


@pytest.mark.parametrize("old", [True, False])
def test_bvlc_googlenet(old, tmp_path):
    model, twin = pair(NAME, "float32", aux_heads=True)
    state = {key: tensor.numpy() for key, tensor in twin.state_dict().items()}
    path = tmp_path / "bvlc_googlenet.caffemodel"
    path.write_bytes(as_caffemodel(state, old))
    options = {"width_multiplier": WIDTH, "num_classes": CLASSES}
    for aux in (True, False):
        again = skeleton(NAME, aux_heads=aux, **options)
        ij.load_weights(again, path)
        for key, tensor in ij.to_torch(again).items():
            np.testing.assert_array_equal(tensor, state[key], err_msg=key)
    images = random_images(model, "float32", (64, 70))
    ours, _ = run(again, lambda m, x: m(x), images)
    theirs, _ = run(model, lambda m, x: m(x), images)
    np.testing.assert_array_equal(ours, theirs)
    other = skeleton("inception_v1.tv_in1k", **options)
    with pytest.raises(ij.WeightsError, match=r"norm='lrn'.*takes them as inception_v1.bvlc_in1k$"):
        ij.load_weights(other, path)
    content = path.read_bytes()
    for rest in (content[: len(content) // 2], b"", b"<!DOCTYPE html>", message(1, b"GoogleNet")):
        path.write_bytes(rest)
        with pytest.raises(ij.WeightsError, match=r"bvlc_googlenet\.caffemodel is not a"):
            ij.load_weights(again, path)

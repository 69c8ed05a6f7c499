"""Tests that folded networks and `jit_predict` give the original network's logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax.nn.norms import BatchNorm
from tests.helpers.networks import (
    CLASSES,
    compare,
    distinct_readings,
    filled,
    network,
    random_images,
    run,
    small,
)

# Networks that cover every kind of fold; all other networks are marked slow.
KINDS = {"inception_v3", "inception_resnet_v1", "inception_next_atto", "xception41", "xception41p"}
READINGS = [
    name if name in KINDS else pytest.param(name, marks=pytest.mark.slow)
    for name in distinct_readings()
]


def images_for(model, dtype, n=2):
    size = (model.min_size + 5, model.min_size + 12)
    return random_images(model, dtype, size, n=n)


def logits(model, images):
    return run(model, lambda m, x: m(x), images)[0]


@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
@pytest.mark.parametrize("name", READINGS)
def test_folding_keeps_the_logits(name, dtype):
    model = network(name, dtype)
    before = nnx.to_pure_dict(nnx.state(model))
    images = images_for(model, dtype)
    folded = ij.fold(model)
    compare(logits(folded, images), np.asarray(logits(model, images)), dtype, name)
    for old, new in zip(
        jax.tree.leaves(before), jax.tree.leaves(nnx.to_pure_dict(nnx.state(model))), strict=True
    ):
        assert old is new


@pytest.mark.parametrize("name", ["inception_v3", "inception_next_atto"])
def test_folding_survives_tiny_variances(name, dtype):
    model = network(name, dtype, hostile=True)
    images = images_for(model, dtype)
    expected = np.asarray(logits(model, images))
    # The tolerance is doubled, because both results are rounded.
    scale = 2 * np.abs(expected).max()
    compare(logits(ij.fold(model), images), expected, dtype, name, scale)


@pytest.mark.parametrize(("name", "left"), [("inception_v3", 0), ("inception_next_atto", 0),
                                            ("xception", 0), ("xception41p", 13)])  # fmt: skip
def test_what_no_convolution_can_take_stays(name, left):
    model = network(name, "float32")
    norms = [m for _, m in nnx.iter_modules(ij.fold(model)) if isinstance(m, BatchNorm)]
    assert len(norms) == left


def test_a_folded_network_is_not_trained_and_not_saved(tmp_path):
    folded = ij.fold(network("inception_v1", "float32"))
    with pytest.raises(ValueError, match="cannot be trained"):
        nnx.view(folded, use_running_average=False)
    with pytest.raises(ij.WeightsError, match="create_model"):
        ij.save_weights(folded, tmp_path / "weights.safetensors")


def test_narrow_parameters_are_not_folded():
    model = ij.create_model("inception_v3", width_multiplier=0.1, param_dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match=r"Conv2d_1a_3x3.*bfloat16.*float32"):
        ij.fold(model)


@pytest.mark.parametrize(("n", "parts"), [(1, 3), (4, None), (5, 1), (5, 2), (5, 3)])
def test_predict_cuts_the_batch_and_gives_all_of_it(n, parts):
    model = network("inception_v1", "float32")
    images = images_for(model, "float32", n=n)
    predict = ij.jit_predict(model, parts=parts)
    compare(predict(images), np.asarray(logits(model, images)), "float32", f"{parts} parts")
    assert predict(images).shape == (n, CLASSES)


# Networks with dense and depthwise convolutions; other networks add no kind of convolution.
@pytest.mark.parametrize("name", ["inception_v3", "inception_next_atto", "xception41"])
@pytest.mark.parametrize("native", [False, True])
def test_predict_gives_the_logits_in_every_form(name, native, monkeypatch):
    """`jit_predict` gives the network's logits with and without XLA's native convolutions.

    Programs for oneDNN have native convolutions; other CPU programs use the forms for CPUs, see
    `inception_jax/nn/forms.py`.
    """
    asked = []
    if native:
        monkeypatch.setattr(
            "inception_jax.inference.compiled.inference_options",
            lambda _: asked.append(1) or {"xla_cpu_enable_fast_min_max": False},
        )
    model = network(name, "float32")
    images = images_for(model, "float32")
    expected = np.asarray(logits(model, images))
    compare(ij.jit_predict(model, parts=1)(images), expected, "float32", name)
    assert bool(asked) == native


def test_predict_gives_the_logits_of_many_sizes(monkeypatch):
    """The first programs contain the parameters, further ones take them as arguments."""
    monkeypatch.setattr("inception_jax.inference.compiled._MOST_COPIES", 1)
    monkeypatch.setattr(
        "inception_jax.inference.compiled.inference_options",
        lambda _: {"xla_cpu_enable_fast_min_max": False},
    )
    model = network("inception_v1", "float32")
    predict = ij.jit_predict(model, parts=2)
    for n in (1, 3, 5, 1):
        images = np.asarray(images_for(model, "float32", n=n), np.float64)
        expected = np.asarray(logits(model, jnp.asarray(images, jnp.float32)))
        compare(predict(images), expected, "float32", f"{n} images")


@pytest.mark.parametrize("name", ["inception_next_atto"])
def test_predict_computes_in_another_dtype(name):
    model = network(name, "float32")
    narrow = filled(name, dtype=jnp.bfloat16, param_dtype="float32", **small(name))
    images = images_for(model, "float32")
    found = ij.jit_predict(model, dtype=jnp.bfloat16)(images)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, ij.jit_predict(narrow)(images))
    assert np.asarray(logits(model, images)).dtype == np.float32  # the network stays as it is


def test_predict_says_what_is_wrong_with_images():
    predict = ij.jit_predict(network("inception_v1", "float32"), parts=2)
    for bad in (np.zeros((4, 8, 8, 3), np.float32), np.zeros((40, 40, 3), np.float32)):
        with pytest.raises(ValueError, match="images"):
            predict(bad)
    for parts in (0, -1):
        with pytest.raises(ValueError, match=f"parts must be at least 1; got {parts}"):
            ij.jit_predict(network("inception_v1", "float32"), parts=parts)

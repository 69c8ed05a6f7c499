"""Tests which compiled functions use oneDNN's convolutions, and that results stay the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax.nn import onednn, ops
from inception_jax.nn.forms import native_convolutions
from inception_jax.nn.rewrite_names import REWRITES
from tests.helpers.networks import network, random_images


def options_or_skip(dtype: str = "float32"):
    options = onednn.compiler_options(dtype)
    if not options:
        pytest.skip(f"XLA's CPU backend has no oneDNN for {dtype} here")
    return options


CONVOLUTIONS = {  # shapes of the map and of the kernel, and the options
    "3x3": ((2, 9, 9, 16), (3, 3, 16, 8), {}),
    "unpadded": ((2, 9, 9, 16), (3, 3, 16, 8), dict(stride=2, padding="valid")),
    "1x1": ((2, 5, 5, 12), (1, 1, 12, 7), {}),
    "depthwise": ((2, 9, 9, 24), (3, 3, 1, 24), {}),
    "strided": ((2, 9, 9, 24), (3, 3, 1, 24), dict(stride=2)),
    "dilated": ((2, 9, 9, 24), (3, 3, 1, 24), dict(dilation=2)),
    "multiplied": ((2, 9, 9, 16), (3, 3, 1, 32), {}),
    "band": ((2, 14, 14, 12), (1, 11, 1, 12), {}),
    "of five channels": ((2, 7, 7, 5), (3, 3, 1, 5), {}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_onednn_takes_every_convolution(case):
    """oneDNN computes every convolution; the program contains none of XLA's own.

    XLA's own depthwise convolutions, the fallback, take a hundred times as long.
    """
    options = options_or_skip()
    *shapes, how = CONVOLUTIONS[case]
    x, kernel = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shapes))
    depthwise = kernel.shape[2] != x.shape[3]
    convolve = ops.depthwise_conv if depthwise else ops.conv

    def compiled(options):
        with native_convolutions():
            return jax.jit(lambda *a: convolve(*a, **how)).lower(x, kernel).compile(options)

    program = compiled(options)
    assert " convolution(" not in program.as_text()
    expected = convolve(x, kernel, **how)
    rounding = 2e-6 * float(jnp.abs(expected).max())
    np.testing.assert_allclose(program(x, kernel), expected, atol=rounding)


def test_bfloat16_is_as_close_as_without():
    options_or_skip("bfloat16")
    model = network("inception_v3", "float32")
    images = random_images(model, "float32", (83, 91), n=3)
    exact = np.asarray(ij.jit_predict(model)(images))
    found = ij.jit_predict(model, dtype="bfloat16")(images).astype(jnp.float32)
    without = jax.jit(nnx.view(model).eval_view())(images.astype(jnp.bfloat16))
    bound = 2 * float(np.abs(np.asarray(without, np.float32) - exact).max())
    np.testing.assert_allclose(found, exact, atol=max(bound, 0.02 * np.abs(exact).max()))


@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2"])
def test_gradients_are_those_without(name, own_gradients_everywhere):
    """Gradients with oneDNN equal gradients without oneDNN.

    BatchNorm uses the running statistics, because a small batch's statistics would magnify rounding
    a thousandfold.
    """
    options = options_or_skip()
    model = network(name, "float32")
    images = random_images(model, "float32", (83, 91), n=2)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        with ij.rewritten(*REWRITES):
            return (nnx.merge(graphdef, params, rest)(images) ** 2).sum()

    found = jax.jit(jax.grad(native_convolutions()(loss)), compiler_options=options)(params)
    expected = jax.jit(jax.grad(loss))(params)

    def check(path, own, leaf):
        bound = 1e-5 * float(jnp.abs(leaf).max())
        np.testing.assert_allclose(own, leaf, atol=bound, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(check, found, expected)


@pytest.mark.parametrize(
    ("name", "dtype", "faster"),
    [
        ("inception_v3", "float32", True),
        ("inception_resnet_v2", "float32", True),
        ("inception_v3", "bfloat16", False),
        ("inception_v3", "float64", False),
        ("inception_v1", "float32", False),
        ("xception", "float32", False),
        ("inception_next_tiny", "float32", False),
    ],
)
def test_which_networks_are_trained_with_it(name, dtype, faster, monkeypatch):
    monkeypatch.setattr(onednn, "compiler_options", lambda dtype="float32": {"some": True})
    model = nnx.eval_shape(lambda: ij.create_model(name, dtype=dtype, rngs=nnx.Rngs(0)))
    assert bool(onednn.training_options(model)) == faster

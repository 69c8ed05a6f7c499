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
from inception_jax.nn.norms import BatchNorm
from inception_jax.nn.rewrite_names import REWRITES
from tests.helpers.networks import network, random_images


def options_or_skip(dtype: str = "float32", *, training: bool = False):
    options = onednn.compiler_options(dtype, training=training)
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_are_packed_once(dtype, monkeypatch):
    """XLA converts constant kernels to oneDNN's layout when it compiles a program."""
    options_or_skip(dtype)
    programs = []
    compile_ = jax.stages.Lowered.compile

    def recorded(lowered, *args, **kwargs):
        programs.append(compile_(lowered, *args, **kwargs))
        return programs[-1]

    monkeypatch.setattr(jax.stages.Lowered, "compile", recorded)
    model = network("inception_v3", "float32")
    ij.jit_predict(model, dtype=dtype)(random_images(model, "float32", (83, 91), n=1))
    text = programs[-1].as_text()
    assert text.count('"weights_prepacked":true') == text.count("__onednn$convolution") > 0


def test_bfloat16_is_as_close_as_without():
    options_or_skip("bfloat16")
    model = network("inception_v3", "float32")
    images = random_images(model, "float32", (83, 91), n=3)
    exact = np.asarray(ij.jit_predict(model)(images))
    found = ij.jit_predict(model, dtype="bfloat16")(images).astype(jnp.float32)
    without = jax.jit(nnx.view(model).eval_view())(images.astype(jnp.bfloat16))
    bound = 2 * float(np.abs(np.asarray(without, np.float32) - exact).max())
    np.testing.assert_allclose(found, exact, atol=max(bound, 0.02 * np.abs(exact).max()))


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_depthwise_convolutions_are_not_xlas_own(stride):
    """Nothing in the gradient is XLA's own convolution, which takes several times as long."""
    options = options_or_skip(training=True)
    x, kernel = jnp.ones((2, 9, 9, 24)), jnp.ones((3, 3, 1, 24))

    def loss(x, kernel):
        with native_convolutions(), ij.rewritten(*REWRITES):
            return (ops.depthwise_conv(x, kernel, stride) ** 2).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile(options)
    assert " convolution(" not in gradient.as_text()


def test_sums_are_not_xlas_own_loops():
    """In training, XLA's library computes all sums of BatchNorm, several times as fast as a loop.

    It takes them only if the map is stored that they are computed from.
    """
    options = options_or_skip(training=True)
    norm = BatchNorm(64, eps=1e-3, momentum=0.9)
    norm.use_running_average = False
    graphdef, state = nnx.split(norm)

    def normalise(state, x):
        with ij.rewritten(*REWRITES):
            return (nnx.merge(graphdef, state)(x, relu=True) ** 2).sum()

    gradient = jax.jit(jax.grad(normalise, 1))
    program = gradient.lower(nnx.to_pure_dict(state), jnp.ones((2, 32, 32, 64))).compile(options)
    text = program.as_text()
    assert text.count(" reduce(") == text.count("kind=kCustom") == 4


@pytest.mark.parametrize(
    ("name", "rounding"),
    [
        ("inception_v3", 1e-5),
        ("inception_resnet_v2", 1e-5),
        ("xception41", 1e-5),
        # A bias of it: the terms of its sum cancel, and every form is up to 1e-4 from float64.
        ("inception_next_tiny", 3e-4),
    ],
)
def test_gradients_are_those_without(name, rounding, own_gradients_everywhere):
    """Gradients with oneDNN equal gradients without oneDNN.

    BatchNorm uses the running statistics, because a small batch's statistics would magnify rounding
    a thousandfold.
    """
    options = options_or_skip(training=True)
    model = network(name, "float32")
    images = random_images(model, "float32", (83, 91), n=2)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        with ij.rewritten(*REWRITES):
            return (nnx.merge(graphdef, params, rest)(images) ** 2).sum()

    found = jax.jit(jax.grad(native_convolutions()(loss)), compiler_options=options)(params)
    expected = jax.jit(jax.grad(loss))(params)

    def check(path, own, leaf):
        bound = rounding * float(jnp.abs(leaf).max())
        np.testing.assert_allclose(own, leaf, atol=bound, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(check, found, expected)


@pytest.mark.parametrize(
    ("dtype", "faster"), [("float32", True), ("bfloat16", False), ("float64", False)]
)
def test_which_networks_are_trained_with_it(dtype, faster, monkeypatch):
    monkeypatch.setattr(onednn, "compiler_options", lambda **_: {"some": True})
    model = nnx.eval_shape(lambda: ij.create_model("inception_v3", dtype=dtype, rngs=nnx.Rngs(0)))
    assert bool(onednn.training_options(model)) == faster

"""Tests which libraries compiled functions use, and that results stay the same."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax.models.inception_resnet_v1 import Residual
from inception_jax.nn import cpu_libraries, ops
from inception_jax.nn.forms import native_convolutions
from inception_jax.nn.layers import Conv
from inception_jax.nn.model import Model
from inception_jax.nn.norms import BatchNorm
from inception_jax.nn.rewrite_names import REWRITES
from tests.helpers.networks import network, random_images


def options_or_skip(dtype: str = "float32", *, training: bool = False):
    options = cpu_libraries.onednn_options(dtype, training=training)
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


class Block(Residual):
    """A residual block without branches."""

    def __init__(self, channels: int, seed: int):
        self.up = Conv(channels, channels, bias=True, rngs=nnx.Rngs(seed))
        self.scale = 0.5

    def __call__(self, x: jax.Array) -> jax.Array:
        return self._add(x, [x])


def largest_loop(program: Any) -> int:
    """Returns the largest number of arrays that a loop of a compiled program reads."""
    text = program.as_text()
    loops = re.findall(r" fusion\(([^)]*)\), kind=kLoop", text[text.index("ENTRY") :])
    return max((operands.count("%") for operands in loops), default=0)


def test_sums_of_residual_blocks_are_computed_once():
    """YNNPACK computes each sum with its product, so that no loop adds those of many blocks.

    The values and gradients are those of the program without.
    """
    options = cpu_libraries.ynnpack_options()
    if not options:
        pytest.skip("XLA's CPU backend has no such YNNPACK here")
    blocks = 8
    chain = nnx.List([Block(64, seed) for seed in range(blocks)])
    graphdef, state = nnx.split(chain)

    def loss(state, x):
        with ij.rewritten(*REWRITES):
            for block in nnx.merge(graphdef, state):
                x = block(x)
        return (x**2).sum(), x

    arguments = nnx.to_pure_dict(state), jax.random.normal(jax.random.key(0), (1, 16, 16, 64))
    lowered = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)).lower(*arguments)
    fused, plain = lowered.compile(options), lowered.compile()
    assert largest_loop(fused) < blocks < largest_loop(plain)

    def check(found, expected):
        np.testing.assert_allclose(found, expected, atol=1e-5 * float(jnp.abs(expected).max()))

    jax.tree.map(check, fused(*arguments), plain(*arguments))


ONEDNN = {"xla_cpu_experimental_onednn_custom_call": True}
YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": "some"}


@pytest.mark.parametrize(
    ("name", "dtype", "onednn", "training", "inference"),
    [
        ("inception_v3", "float32", True, ONEDNN, ONEDNN),
        ("inception_v3", "bfloat16", True, {}, ONEDNN),
        ("inception_v3", "float64", True, {}, {}),
        ("inception_v3", "float32", False, {}, {}),
        ("inception_resnet_v1", "float32", True, ONEDNN, ONEDNN),
        ("inception_resnet_v1", "float32", False, YNNPACK, YNNPACK),
        ("inception_resnet_v2", "float32", False, YNNPACK, YNNPACK),
        ("inception_resnet_v2", "bfloat16", False, {}, {}),
        ("inception_resnet_v2", "float64", False, {}, {}),
    ],
)
def test_which_library_a_network_gets(name, dtype, onednn, training, inference, monkeypatch):
    def onednn_options(dtype="float32", *, training=False):
        return ONEDNN if onednn and dtype != "float64" else {}

    monkeypatch.setattr(cpu_libraries, "onednn_options", onednn_options)
    monkeypatch.setattr(cpu_libraries, "ynnpack_options", lambda: YNNPACK)
    model = nnx.eval_shape(lambda: ij.create_model(name, dtype=dtype, rngs=nnx.Rngs(0)))
    assert cpu_libraries.training_options(model) == training
    assert cpu_libraries.inference_options(model) == inference
    assert cpu_libraries.call_onednn(inference) == (inference == ONEDNN)


def test_a_network_without_our_convolutions_gets_no_library():
    class Own(Model):
        pass

    assert cpu_libraries.inference_options(Own()) == {}
    assert cpu_libraries.training_options(Own()) == {}


@pytest.mark.parametrize("onednn", [True, False])
def test_jit_predict_gives_the_logits_with_every_library(onednn, monkeypatch):
    if not onednn:
        monkeypatch.setattr(cpu_libraries, "onednn_options", lambda *_, **__: {})
    model = network("inception_resnet_v2", "float32")
    images = random_images(model, "float32", (83, 91), n=3)
    expected = jax.jit(nnx.view(model).eval_view())(images)
    rounding = 1e-5 * float(jnp.abs(expected).max())
    np.testing.assert_allclose(ij.jit_predict(model)(images), expected, atol=rounding)


@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2", "xception"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_not_hidden(name, value):
    """The ReLU of oneDNN and YNNPACK maps NaN to 0, so that it would not reach the logits."""
    model = network(name, "float32")
    images = np.array(random_images(model, "float32", (83, 91), n=3))
    expected = np.asarray(ij.jit_predict(model)(images))
    images[1, 40, 40, 0] = value
    found = np.asarray(ij.jit_predict(model)(images))
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])


def test_parameters_that_are_not_finite_are_an_error():
    model = network("inception_v3", "float32")
    kernel = model.Mixed_5b.branch1x1.conv.kernel
    kernel[...] = jnp.asarray(kernel[...]).at[0, 0, 3, 1].set(jnp.nan)
    with pytest.raises(ValueError, match=r"Mixed_5b.branch1x1.conv.kernel has NaN or infinity"):
        ij.jit_predict(model)

"""Compares the forms (implementations, see `nn/forms.py`) of every operation with PyTorch."""

from __future__ import annotations

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

import inception_jax as ij
from inception_jax.nn import ops

torch = pytest.importorskip("torch")
import torch.nn.functional as F

import reference_torch.ops as torch_ops

FORMS = ("shifted", "native")
DEPTHWISE_FORMS = (*FORMS, "dense")
PADDINGS = ("valid", "same", "symmetric", "ceil")

cases = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(3, 9), st.integers(3, 9)),
        "window": st.integers(1, 3),
        "stride": st.integers(1, 3),
        "padding": st.sampled_from(PADDINGS),
        "seed": st.integers(0, 99),
    }
)


@pytest.fixture
def form(request):
    with ops.forced_form(request.param):
        yield request.param


def in_form(form, call):
    """Returns the result of `call()` with the operations in a form, such as "native".

    Each form is compiled separately.
    """
    with ops.forced_form(form):
        return call()


def nchw(x):
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def nhwc(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def value_and_pullback(function, *args):
    """Returns a function's output and its gradients for a fixed cotangent, from one program.

    Without `jit`, each operation would be compiled for each shape.
    """

    @jax.jit
    def both(*args):
        out, pull = jax.vjp(function, *args)
        return out, pull(jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))

    return both(*args)


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_follows_tensorflow_and_pytorch(padding):
    """`pads` gives TensorFlow's and PyTorch's paddings for all small sizes, windows and strides.

    Testing all of them is cheap, because nothing is compiled.
    """
    for n, window, stride in itertools.product(range(3, 10), range(1, 4), range(1, 4)):
        low, high = ops.pads(n, window, stride, padding)
        assert (low, high) == torch_ops.pads(n, window, stride, padding)
        out = (n + low + high - window) // stride + 1
        if padding == "same":
            assert out == math.ceil(n / stride)
            assert high - low in (0, 1)
        if padding == "symmetric":
            assert low == high == window // 2
        if padding == "ceil" and n >= window:
            pooled = F.max_pool2d(torch.zeros(1, n, n), window, stride, ceil_mode=True)
            assert (low, out) == (0, pooled.shape[1])


@pytest.mark.parametrize(
    ("form", "names"),
    [("shifted", ()), ("shifted", ("gradients",)), ("native", ())],
    indirect=["form"],
)
@given(case=cases)
def test_max_pool_equals_pytorch_with_ties(form, names, case):
    """Max pools and their gradients equal PyTorch's, also if a window has several maxima.

    The gradient at such ties is a convention. Inputs with few distinct values have many ties.
    """
    rng = np.random.default_rng(case["seed"])
    x = rng.integers(-1, 2, (2, *case["size"], 3)).astype(np.float32)
    pool = lambda x: ops.max_pool(x, case["window"], case["stride"], case["padding"])  # noqa: E731
    with ij.rewritten(*names):
        ours, (grad,) = value_and_pullback(pool, jnp.asarray(x))

    t = nchw(x).requires_grad_()
    theirs = torch_ops.max_pool(t, case["window"], case["stride"], case["padding"])
    pull = jnp.cos(jnp.arange(ours.size, dtype=ours.dtype)).reshape(ours.shape)
    theirs.backward(nchw(pull))
    np.testing.assert_array_equal(ours, nhwc(theirs))
    np.testing.assert_allclose(grad, nhwc(t.grad), atol=1e-6)


@pytest.mark.parametrize("form", FORMS, indirect=True)
@pytest.mark.parametrize("include", [False, True])
@given(case=cases)
def test_avg_pool_equals_pytorch(form, include, case):
    rng = np.random.default_rng(case["seed"])
    x = rng.normal(size=(2, *case["size"], 3)).astype(np.float32)
    args = case["window"], case["stride"], case["padding"]
    pool = functools.partial(ops.avg_pool, count_include_pad=include)
    ours, (grad,) = value_and_pullback(lambda x: pool(x, *args), jnp.asarray(x))
    t = nchw(x).requires_grad_()
    theirs = torch_ops.avg_pool(t, *args, count_include_pad=include)
    theirs.backward(nchw(jnp.cos(jnp.arange(ours.size, dtype=ours.dtype)).reshape(ours.shape)))
    np.testing.assert_allclose(ours, nhwc(theirs), atol=1e-6)
    np.testing.assert_allclose(grad, nhwc(t.grad), atol=1e-6)


@pytest.mark.parametrize("include", [False, True])
def test_average_at_the_border(include):
    """In a map of ones, only the averages at the border depend on whether padding counts."""
    out = ops.avg_pool(jnp.ones((1, 5, 5, 1)), 3, 1, "same", count_include_pad=include)[0, :, :, 0]
    theirs = F.avg_pool2d(torch.ones(1, 1, 5, 5), 3, 1, 1, count_include_pad=include)[0, 0]
    np.testing.assert_allclose(out, theirs, rtol=1e-6)
    assert out[2, 2] == 1
    np.testing.assert_allclose(out[0, 0], 4 / 9 if include else 1, rtol=1e-6)


@pytest.mark.parametrize("form", DEPTHWISE_FORMS, indirect=True)
@given(case=cases)
def test_depthwise_conv_equals_pytorch(form, case):
    rng = np.random.default_rng(case["seed"])
    window, (stride, padding) = case["window"], (case["stride"], case["padding"])
    dilation, multiplier = rng.integers(1, 3, size=2).tolist()
    span = (window - 1) * dilation + 1
    if span > min(case["size"]):  # no window fits
        dilation, span = 1, window
    x = rng.normal(size=(2, *case["size"], 4)).astype(np.float32)
    kernel = rng.normal(size=(window, window, 1, 4 * multiplier)).astype(np.float32)
    conv = lambda x, k: ops.depthwise_conv(x, k, stride, padding, dilation)  # noqa: E731
    ours, grads = value_and_pullback(conv, jnp.asarray(x), jnp.asarray(kernel))

    t = nchw(x).requires_grad_()
    w = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).requires_grad_()
    padded = torch_ops.pad(t, (span, span), stride, padding)
    theirs = F.conv2d(padded, w, stride=stride, dilation=dilation, groups=4)
    theirs.backward(nchw(jnp.cos(jnp.arange(ours.size, dtype=ours.dtype)).reshape(ours.shape)))
    np.testing.assert_allclose(ours, nhwc(theirs), atol=1e-5)
    np.testing.assert_allclose(grads[0], nhwc(t.grad), atol=1e-5)
    np.testing.assert_allclose(grads[1], w.grad.numpy().transpose(2, 3, 1, 0), atol=1e-4)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 5))
def test_adaptive_average_equals_pytorch(height, width, size):
    x = np.random.default_rng(height).normal(size=(2, height, width, 3)).astype(np.float32)
    ours, (grad,) = value_and_pullback(lambda x: ops.adaptive_avg_pool(x, size), jnp.asarray(x))
    t = nchw(x).requires_grad_()
    theirs = F.adaptive_avg_pool2d(t, size)
    theirs.backward(nchw(jnp.cos(jnp.arange(ours.size, dtype=ours.dtype)).reshape(ours.shape)))
    np.testing.assert_allclose(ours, nhwc(theirs), atol=1e-5)
    np.testing.assert_allclose(grad, nhwc(t.grad), atol=1e-5)


def test_response_normalisation_equals_caffes_formula():
    """Local response normalisation equals the formula in Caffe's manual.

    The values are large enough to change the divisor.
    """
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 8)).astype(np.float32) * 100
    ours = ops.local_response_norm(jnp.asarray(x))
    for c in range(8):
        total = np.square(x[..., max(c - 2, 0) : c + 3]).sum(-1)
        expected = x[..., c] / (1 + 1e-4 / 5 * total) ** 0.75
        np.testing.assert_allclose(ours[..., c], expected, rtol=1e-5)
    assert np.abs(ours - x).max() > 1
    np.testing.assert_allclose(ours, nhwc(torch_ops.local_response_norm(nchw(x))), rtol=1e-5)


@pytest.mark.parametrize("window", [(1, 1), (3, 3), (1, 7), (7, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", PADDINGS)
def test_conv_equals_pytorch(window, stride, padding):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 10, 9, 3)).astype(np.float32)
    kernel = rng.normal(size=(*window, 3, 5)).astype(np.float32)
    theirs = F.conv2d(
        torch_ops.pad(nchw(x), window, stride, padding),
        torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()),
        stride=stride,
    )
    for form in FORMS:
        ours = in_form(form, lambda: ops.conv(jnp.asarray(x), jnp.asarray(kernel), stride, padding))
        np.testing.assert_allclose(ours, nhwc(theirs), atol=1e-4)


def test_even_maps_tell_the_paddings_apart():
    """At stride 2, TensorFlow's and PyTorch's paddings differ on even maps, not on odd ones."""
    rng = np.random.default_rng(0)
    for size, equal in ((8, False), (9, True)):
        x = jnp.asarray(rng.normal(size=(1, size, size, 2)), jnp.float32)
        same, symmetric = (ops.max_pool(x, 3, 2, padding) for padding in ("same", "symmetric"))
        assert same.shape == symmetric.shape
        assert bool((same == symmetric).all()) == equal


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_max_pool_lets_nan_through(form):
    x = jnp.zeros((1, 6, 6, 1)).at[0, 2, 3, 0].set(jnp.nan)
    out = np.isnan(ops.max_pool(x, 3, 2, "same")[0, :, :, 0])
    theirs = torch_ops.max_pool(nchw(x), 3, 2, "same")[0, 0].isnan().numpy()
    assert out.any()
    np.testing.assert_array_equal(out, theirs)


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_nothing_returns_float32_for_bfloat16(form):
    x = jnp.ones((1, 8, 8, 4), jnp.bfloat16)
    outputs = (
        ops.max_pool(x, 3, 2, "same"),
        ops.avg_pool(x, 3, 1, "same"),
        ops.avg_pool(x, 3, 1, "same", count_include_pad=True),
        ops.conv(x, jnp.ones((1, 1, 4, 4), jnp.bfloat16)),
        ops.depthwise_conv(x, jnp.ones((3, 3, 1, 4), jnp.bfloat16)),
        ops.adaptive_avg_pool(x, 3),
        ops.local_response_norm(x),
    )
    assert {str(y.dtype) for y in outputs} == {"bfloat16"}


# window, stride, padding, dilation, channel multiplier of a depthwise convolution or None
CONVOLUTIONS = [
    ((3, 3), 1, "same", 1, None),
    ((3, 3), 2, "same", 1, None),
    ((3, 3), 2, "valid", 1, None),
    ((5, 5), 2, "symmetric", 1, None),
    ((3, 3), 2, "ceil", 1, None),
    ((1, 1), 1, "same", 1, None),
    ((1, 1), 2, "valid", 1, None),
    ((1, 7), 1, "same", 1, None),
    ((3, 3), 1, "same", 1, 1),
    ((3, 3), 2, "symmetric", 1, 2),
    ((3, 3), 1, "same", 2, 1),
    ((3, 3), 2, "same", 1, 1),
    ((3, 3), 2, "symmetric", 2, 1),
    ((5, 3), 3, "valid", 1, 1),
    ((1, 11), 1, "same", 1, 1),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("form", [*DEPTHWISE_FORMS, "own gradients"])
def test_a_wide_kernel_is_rounded_and_its_gradient_is_not(form, case, own_gradients_everywhere):
    """With a bfloat16 input, a float32 kernel is rounded to bfloat16, but its gradient is not.

    Products of bfloat16 numbers are exact in float32, so only the gradient's sum is rounded.
    """
    window, _, _, _, multiplier = case
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 9, 10, 6)), jnp.bfloat16)
    shape = (*window, 6, 5) if multiplier is None else (*window, 1, 6 * multiplier)
    kernel = jnp.asarray(rng.normal(size=shape), jnp.float32)

    own = form == "own gradients"

    # The context holds the forward pass only, as in a network: the backward pass is traced later.
    def convolve(x, kernel):
        with ij.rewritten("gradients") if own else ops.forced_form(form):
            return _convolution(case)(x, kernel)

    y, pull = jax.vjp(convolve, x, kernel)
    g = jnp.asarray(rng.normal(size=y.shape), jnp.bfloat16)
    dx, dkernel = pull(g)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)

    rounded = kernel.astype(jnp.bfloat16)
    exact, exact_pull = jax.vjp(convolve, *(a.astype(jnp.float32) for a in (x, rounded)))
    exact_dx, exact_dkernel = exact_pull(g.astype(jnp.float32))
    assert_close(dkernel, exact_dkernel, 1e-6)
    assert_close(y, exact, 1e-2)  # bfloat16's precision
    assert_close(dx, exact_dx, 1e-2)
    narrow = jax.vjp(convolve, x, rounded)[1](g)[1]
    assert narrow.dtype == jnp.bfloat16
    assert np.abs(np.float32(narrow) - exact_dkernel).max() > 1e-4  # what rounding loses


def test_a_wide_linear_kernel_is_rounded_and_its_gradient_is_not():
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=(50, n)), jnp.bfloat16) for n in (7, 5))
    kernel = jnp.asarray(rng.normal(size=(7, 5)), jnp.float32)
    y, pull = jax.vjp(ops.linear, x, kernel)
    dx, dkernel = pull(g)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert_close(dkernel, np.float32(x).T @ np.float32(g), 1e-6)
    assert_close(y, np.float32(x) @ np.float32(kernel.astype(jnp.bfloat16)), 1e-2)


def assert_close(found, expected, share):
    found, expected = np.float32(found), np.float32(expected)
    assert np.abs(found - expected).max() <= share * np.abs(expected).max()


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_own_gradients_equal_pytorchs(case, own_gradients_everywhere):
    """The gradients that the rewrite `gradients` uses on CPUs equal PyTorch's in float64."""
    window, stride, padding, dilation, multiplier = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 9, 10, 6))
    kernel = rng.normal(
        size=(*window, 6, 5) if multiplier is None else (*window, 1, 6 * multiplier)
    )
    with jax.enable_x64(True), ij.rewritten("gradients"):
        convolve = _convolution(case)
        ours, pulled = value_and_pullback(convolve, jnp.asarray(x), jnp.asarray(kernel))
        pull = np.cos(np.arange(ours.size)).reshape(ours.shape)
    spans = tuple((k - 1) * dilation + 1 for k in window)
    t = nchw(x).requires_grad_()
    k = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).requires_grad_()
    theirs = F.conv2d(
        torch_ops.pad(t, spans, stride, padding),
        k,
        stride=stride,
        dilation=dilation,
        groups=1 if multiplier is None else 6,
    )
    theirs.backward(nchw(pull))
    np.testing.assert_allclose(ours, nhwc(theirs), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(pulled[0], nhwc(t.grad), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        pulled[1], k.grad.permute(2, 3, 1, 0).numpy(), rtol=1e-12, atol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_own_gradients_can_be_differentiated_again(case, own_gradients_everywhere):
    """The gradients of the rewrite `gradients` can be differentiated in forward and reverse mode.

    The convolutions themselves have reverse mode only.
    """
    window, _, _, _, multiplier = case
    rng = np.random.default_rng(0)
    shape = (*window, 3, 2) if multiplier is None else (*window, 1, 3 * multiplier)
    with jax.enable_x64(True), ij.rewritten("gradients"):
        x, kernel = (jnp.asarray(rng.normal(size=s)) for s in ((2, 7, 6, 3), shape))
        convolve = jax.jit(_convolution(case))
        check_grads(convolve, (x, kernel), 2, modes=("rev",))
        gradient = jax.jit(jax.grad(lambda x, k: jnp.sin(convolve(x, k)).sum(), argnums=(0, 1)))
        check_grads(gradient, (x, kernel), 1, modes=("fwd", "rev"))


@pytest.mark.parametrize("args", [(3, 2, "same"), (3, 1, "symmetric"), (2, 2, "valid")], ids=str)
def test_a_max_pools_own_gradient_can_be_differentiated_again(args):
    x = jnp.asarray(np.random.default_rng(0).permutation(2 * 7 * 6 * 2).reshape(2, 7, 6, 2) / 8)
    with jax.enable_x64(True), ij.rewritten("gradients"):
        x = x.astype("float64")
        pool = jax.jit(lambda x: jnp.sin(ops.max_pool(x, *args)))
        check_grads(pool, (x,), 2, modes=("rev",))
        check_grads(jax.jit(jax.grad(lambda x: pool(x).sum())), (x,), 1, modes=("fwd", "rev"))


def test_own_gradients_refuse_forward_mode():
    x, kernel = jnp.ones((1, 3, 3, 2)), jnp.ones((1, 1, 2, 2))
    with ij.rewritten("gradients"), pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(ops.conv, (x, kernel), (x, kernel))
    jax.jvp(ops.conv, (x, kernel), (x, kernel))


def test_own_gradients_are_for_cpus_alone(own_gradients_everywhere):
    """The rewrite `gradients` changes a CPU's program, but not a TPU's.

    The operations that choose the platform are not compared.
    """
    choice = {"case", "return", "constant", "broadcast_in_dim"}
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def operations(platform, *names):
        with ij.rewritten(*names):
            step = jax.jit(jax.grad(lambda k: jnp.sin(ops.conv(x, k)).sum()))
            text = step.trace(kernel).lower(lowering_platforms=(platform,)).as_text()
        return sorted(name for name in re.findall(r"stablehlo\.(\w+)", text) if name not in choice)

    assert operations("tpu", "gradients") == operations("tpu")
    assert operations("cpu", "gradients") != operations("cpu")


def _convolution(case):
    _, stride, padding, dilation, multiplier = case
    if multiplier is None:
        return lambda x, kernel: ops.conv(x, kernel, stride, padding)
    return lambda x, kernel: ops.depthwise_conv(x, kernel, stride, padding, dilation)


def test_the_form_follows_the_platform_that_compiles():
    """A CPU program has no window reduction and no grouped convolution; a TPU program has both."""
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, 4))
    block = jax.jit(lambda x, k: ops.max_pool(ops.depthwise_conv(x, k), 3, 2))
    text = {
        platform: block.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu")
    }
    for operation in ("convolution", "reduce_window"):
        assert f"stablehlo.{operation}" in text["tpu"]
        assert f"stablehlo.{operation}" not in text["cpu"]


def test_narrow_depthwise_convolutions_are_full_ones_on_tpus():
    def groups(channels, platform, *rewrites):
        x, kernel = jnp.ones((1, 8, 8, channels)), jnp.ones((3, 3, 1, channels))
        with ij.rewritten(*rewrites):
            traced = jax.jit(ops.depthwise_conv).trace(x, kernel)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return re.findall(r"feature_group_count = (\d+)", text)

    assert groups(48, "tpu", "depthwise") == ["1"]
    assert groups(48, "tpu") == ["48"]
    assert groups(48, "cuda", "depthwise") == ["48"]
    assert groups(64, "tpu", "depthwise") == ["64"]
    assert groups(48, "cpu", "depthwise") == []


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="'SAME'"):
        ops.max_pool(jnp.ones((1, 4, 4, 1)), 3, 2, "SAME")

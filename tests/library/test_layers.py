from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from inception_jax.nn import init
from inception_jax.nn.layers import BatchNorm, Chain, ConvBN, DropPath, channel_scaler, check_images
from inception_jax.nn.rewrites import rewritten
from tests.helpers.networks import to_numpy


def norms(dtype: str, momentum: float):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ours = BatchNorm(5, eps=1e-3, momentum=momentum, dtype=dtype, param_dtype=dtype)
    theirs = torch.nn.BatchNorm2d(5, eps=1e-3, momentum=1 - momentum).to(getattr(torch, dtype))
    for own, name in (("scale", "weight"), ("bias", "bias"), ("mean", "running_mean")):
        value = rng.normal(size=5)
        getattr(ours, own)[...] = jnp.asarray(value, dtype)
        getattr(theirs, name).data.copy_(torch.from_numpy(value))
    value = rng.uniform(0.1, 3, 5)
    ours.var[...] = jnp.asarray(value, dtype)
    theirs.running_var.copy_(torch.from_numpy(value))
    return ours, theirs


@pytest.mark.parametrize("momentum", [0.9, 0.9997, 0.0])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_equals_pytorch(momentum, training, dtype):
    twins = pytest.importorskip("tests.helpers.twins")
    ours, theirs = norms(dtype, momentum)
    ours.use_running_average = not training
    theirs.train(training)
    x = np.random.default_rng(1).normal(2, 3, (3, 4, 2, 5)).astype(dtype)
    tolerance = dict(rtol=1e-5, atol=1e-5) if dtype == "float32" else dict(rtol=1e-11, atol=1e-11)
    for _ in range(2):  # the second step starts from averaged statistics
        y = ours(jnp.asarray(x))
        expected = theirs(twins.to_nchw(x))
        np.testing.assert_allclose(y, to_numpy(expected), **tolerance)
        np.testing.assert_allclose(ours.mean[...], theirs.running_mean, **tolerance)
        np.testing.assert_allclose(ours.var[...], theirs.running_var, **tolerance)


@pytest.mark.parametrize("relu", [False, True])
def test_batch_norms_own_gradient_equals_pytorchs(relu):
    """BatchNorm's gradient under the rewrite `gradients` equals PyTorch's in float64."""
    torch = pytest.importorskip("torch")
    twins = pytest.importorskip("tests.helpers.twins")
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        ours, theirs = norms("float64", 0.9)
        ours.use_running_average = False
        graphdef, params, stats = nnx.split(ours, nnx.Param, ...)
        x, g = rng.normal(2, 3, (3, 4, 2, 5)), rng.normal(size=(3, 4, 2, 5))

        def loss(params, x):
            with rewritten("gradients"):
                norm = nnx.merge(graphdef, params, stats, copy=True)
                return (norm(x, relu=relu) * g).sum()

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
        grads, dx = gradient(nnx.to_pure_dict(params), jnp.asarray(x))
        t = twins.to_nchw(x).requires_grad_()
        y = theirs.train()(t)
        (torch.relu(y) if relu else y).backward(twins.to_nchw(g))
        tolerance = dict(rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(dx, to_numpy(t.grad), **tolerance)
        np.testing.assert_allclose(grads["scale"], theirs.weight.grad, **tolerance)
        np.testing.assert_allclose(grads["bias"], theirs.bias.grad, **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("gradients",), ("gradients", "statistics")])
def test_batch_norms_own_gradient_can_be_differentiated_again(names):
    """BatchNorm's second derivatives are right, including those through the mean and variance."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True), rewritten(*names):
        norm = BatchNorm(3, eps=1e-3, momentum=0.9, dtype="float64", param_dtype="float64")
        norm.use_running_average = False
        graphdef, state = nnx.split(norm)
        call = lambda x: nnx.merge(graphdef, state, copy=True)(x, relu=True)  # noqa: E731
        x = jnp.asarray(rng.normal(2, 3, (3, 4, 2, 3)))
        check_grads(jax.jit(call), (x,), 2, modes=("rev",))
        gradient = jax.jit(jax.grad(lambda x: jnp.sin(call(x)).sum()))
        check_grads(gradient, (x,), 1, modes=("fwd", "rev"))


def test_running_variance_is_the_unbiased_one():
    norm = BatchNorm(1, eps=1e-3, momentum=0.0)
    norm.use_running_average = False
    norm(jnp.asarray([[0.0], [1.0], [2.0], [5.0]]))
    np.testing.assert_allclose(norm.var[...], np.var([0, 1, 2, 5], ddof=1), rtol=1e-6)


# The rewrite `statistics` computes mean and variance in one pass. It rounds squared distances from
# the running mean to 2**-24 of themselves. If the running mean is 0, these distances are 1e4 times
# the variance. If it is near the mean, no accuracy is lost.
@pytest.mark.parametrize(
    ("names", "running", "rtol"),
    [((), 0.0, 1e-5), (("statistics",), 0.0, 1e-3), (("statistics",), 99.0, 1e-5)],
)
def test_statistics_stay_float32_under_bfloat16(names, running, rtol):
    norm = BatchNorm(3, eps=1e-3, momentum=0.5, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    norm.use_running_average = False
    norm.mean[...] = jnp.full(3, running)
    x = jnp.asarray(np.random.default_rng(0).normal(100, 1, (64, 3)), jnp.bfloat16)
    with rewritten(*names):
        y = norm(x)
    assert y.dtype == jnp.bfloat16
    assert norm.mean[...].dtype == norm.var[...].dtype == jnp.float32
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(norm.mean[...], 0.5 * running + 0.5 * exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.5 + 0.5 * exact.var(0, ddof=1), rtol=rtol)


def test_one_value_per_channel_has_no_variance():
    norm = BatchNorm(3, eps=1e-3, momentum=0.9)
    norm.use_running_average = False
    with pytest.raises(ValueError, match="one value per channel"):
        norm(jnp.ones((1, 1, 1, 3)))


def test_modes_by_train_eval_and_view():
    layer = ConvBN(3, 4, 3, bn_eps=1e-3, bn_momentum=0.9, rngs=nnx.Rngs(0))
    assert layer.bn.use_running_average
    layer.train()
    assert not layer.bn.use_running_average
    assert nnx.view(layer, use_running_average=True).bn.use_running_average
    with pytest.raises(ValueError, match="Unused keys"):
        nnx.view(layer, use_running_averages=True)


def test_stochastic_depth_drops_whole_examples():
    drop = DropPath(0.25)
    x = jnp.ones((2000, 2, 3, 4))
    np.testing.assert_array_equal(drop(x), x)
    drop.deterministic = False
    y = np.asarray(drop(x, rngs=nnx.Rngs(dropout=1)))
    assert set(np.unique(y)) == {0, np.float32(4 / 3)}
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1, :1], y.shape))
    assert abs(float(y.mean()) - 1) < 0.04
    with pytest.raises(ValueError, match="rngs"):
        drop(x)


def test_width_multiplier_is_that_of_slim():
    assert [channel_scaler(0.25)(c) for c in (32, 80, 728, 2048)] == [16, 20, 182, 512]
    assert channel_scaler(1.0)(728) == 728
    with pytest.raises(ValueError, match="-1"):
        channel_scaler(-1)


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((2, 75, 75), "float32", ["(2, 75, 75)"]),
        ((2, 75, 75, 1), "float32", ["3 channels", "1"]),
        ((2, 3, 75, 75), "float32", ["3 channels", "75"]),
        ((2, 74, 90, 3), "float32", ["75x75", "74x90"]),
        ((2, 90, 74, 3), "float32", ["75x75", "90x74"]),
        ((2, 75, 75, 3), "uint8", ["uint8"]),
    ],
)
def test_images_that_do_not_fit(shape, dtype, words):
    with pytest.raises(ValueError, match=r"got|not") as error:
        check_images(jax.ShapeDtypeStruct(shape, dtype), 75, 3)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("shape", [(3, 3, 7, 5), (64, 64), (1, 1, 1, 1)])
@pytest.mark.parametrize(
    ("ours", "scale", "distribution"),
    [
        (init.conv_kernel, 2.0, "truncated_normal"),
        (init.linear_kernel, 1.0, "truncated_normal"),
        (init.xavier, 1.0, "uniform"),
    ],
)
def test_kernels_are_those_of_jax(ours, scale, distribution, shape):
    key = jax.random.key(1)
    theirs = jax.nn.initializers.variance_scaling(scale, "fan_in", distribution)(key, shape)
    np.testing.assert_allclose(ours(key, shape), theirs, rtol=2e-7)
    np.testing.assert_array_equal(jax.jit(lambda: ours(key, shape))(), ours(key, shape))
    assert ours(key, shape, jnp.bfloat16).dtype == jnp.bfloat16


def test_equal_layers_of_a_chain_are_traced_once(monkeypatch):
    options = dict(bn_eps=1e-3, bn_momentum=0.9, rngs=nnx.Rngs(0))
    layers = [ConvBN(4, 4, size, **options) for size in (3, 3, 1, 3)]
    chain = nnx.view(Chain(layers), use_running_average=False)
    graphdef, state = nnx.split(chain)
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 4))
    called = []
    call = ConvBN.__call__
    monkeypatch.setattr(ConvBN, "__call__", lambda self, x: called.append(1) or call(self, x))

    def run(state, x):
        chain = nnx.merge(graphdef, state)
        return chain(x), nnx.to_pure_dict(nnx.state(chain))

    traced = jax.jit(run)(state, x)
    assert len(called) == 2  # one of the 3x3, the 1x1
    eager = run(state, x)
    assert len(called) == 6
    with rewritten():
        jax.eval_shape(run, state, x)
    assert len(called) == 10
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), traced, eager)
    means = [found["bn"]["mean"] for found in traced[1].values()]
    assert all((mean != 0).all() for mean in means)
    assert (means[0] != means[1]).all()

"""Tests that each rewrite, and rematerialisation, keeps the plain network's results.

A rewrite is a faster, equal form of a network's computation, see `inception_jax/nn/rewrites.py`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import print_saved_residuals

import inception_jax as ij
from inception_jax.analysis.macs import equations
from inception_jax.nn.branches import siblings_with_pool
from inception_jax.nn.layers import Conv, ConvBN
from inception_jax.nn.norms import BatchNorm
from inception_jax.nn.ops import forced_form
from inception_jax.nn.remat import rematerialised
from tests.helpers.networks import (
    compare,
    deep_ones_slow,
    network,
    options_for,
    random_images,
    skeleton,
)

ARCHS = deep_ones_slow(ij.list_models())
# One module of each class whose branches may be computed together.
MODULES = [
    "inception_v1.inception3a",
    "bn_inception.slim_in1k:inception3c",
    "inception_v2.Mixed_7b",
    "inception_v3.tv_in1k:Mixed_6b",
    "inception_v3.Mixed_7a",
    "inception_v3.fid:Mixed_7c",
    "inception_v4.Mixed_4a",
    "inception_resnet_v1.block35",
    "inception_resnet_v2.Mixed_5b",
    "inception_resnet_v2.block8",
]
# The same classes in another network, another place, or alone.
MORE_MODULES = [
    "inception_v1.bvlc_in1k:inception4a",
    "bn_inception.caffe_in1k:inception3a",
    "bn_inception.slim_in1k:inception5b",
    "inception_v2.Mixed_5b",
    "inception_v2.Mixed_6a",
    "inception_v3.Mixed_5b",
    "inception_v3.tv_in1k:Mixed_7b",
    "inception_v4.Mixed_6a",
    "inception_v4.Mixed_7b",
    "inception_resnet_v1.block35.0",
    "inception_resnet_v2.block17.0",
    "inception_resnet_v2.Mixed_7a",
    "xception41.middle_flow.0",
    "xception41.middle_flow",
]


def step_of(model, images, names, wrap=lambda function: function):
    """Returns the results of a training step with the rewrites `names`.

    Args:
        model: network or module.
        images: input of `model`.
        names: names of the rewrites to enable; no others are.
        wrap: function that is applied to the forward pass, such as `rematerialised`.

    Returns:
        ((loss, (outputs, statistics)), gradients), with gradients for parameters and images.
    """
    graphdef, params, stats = nnx.split(
        nnx.view(model, use_running_average=False, raise_if_not_found=False),
        nnx.Param,
        nnx.BatchStat,
    )
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def outputs(params, stats, images):
        merged = nnx.merge(graphdef, params, stats)
        out = merged(images)
        return out, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

    def loss(params, images):
        out, new = wrap(outputs)(params, stats, images)
        leaves = jax.tree.leaves(out)
        return sum(jnp.sin(jnp.arange(leaf.size)) @ leaf.ravel() for leaf in leaves), (out, new)

    with ij.rewritten(*names):
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        return jax.device_get(step(params, images))


@functools.cache
def plain_step(name):
    model = network(name, "float64", **options_for(name))
    size = (model.min_size + 20, model.min_size + 33)
    images = jnp.asarray(random_images(model, "float64", size, n=4, seed=0))
    return model, images, step_of(model, images, ())


def same(got, expected, what):
    """Asserts that all arrays are equal in float64, relative to each array's largest element.

    The arguments are results of `step_of`; `what` names them in errors. The scale is at least 1e-4
    of the largest element of all arrays, because some gradients are zero except for rounding.
    """
    least = 1e-4 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for (path, g), e in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
    ):
        scale = max(np.abs(e).max(), least)
        compare(g, np.asarray(e), "float64", f"{what}{jax.tree_util.keystr(path)}", scale)


@functools.cache
def module(name):
    """Returns a narrow module with random tensors, and input feature maps for it.

    `name` names a network and a module, as in "inception_v3.Mixed_7a" or, with a tag,
    "inception_v3.fid:Mixed_7c".
    """
    arch, _, path = name.rpartition(":" if ":" in name else ".")
    if ":" not in name:
        arch, _, path = name.partition(".")
    options = {"width_multiplier": 0.2, "dtype": "float64", "param_dtype": "float64"}
    part = skeleton(arch, **options, **options_for(arch))
    for key in path.split("."):
        part = part[int(key)] if key.isdigit() else getattr(part, key)
    rng = np.random.default_rng(0)
    _, state = nnx.split(part)

    def fill(leaf):
        return jnp.asarray(rng.uniform(0.2, 1.2, leaf.shape) * rng.choice([-1, 1], leaf.shape))

    nnx.update(part, jax.tree.map(fill, state))
    for _, norm in nnx.iter_modules(part):
        if isinstance(norm, BatchNorm):
            norm.var[...] = jnp.abs(norm.var[...])
    channels = next(m.kernel.shape[2] for _, m in nnx.iter_modules(part) if isinstance(m, Conv))
    maps = rng.normal(1, 2, (3, 9, 8, channels))
    return part, jnp.asarray(maps)


@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
@pytest.mark.parametrize(
    "name", [*MODULES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_MODULES)]
)
def test_rewritten_modules_give_the_plain_numbers(name, dtype):
    part, maps = module(name)
    plain = step_of(part, maps, ())
    same(step_of(part, maps, ij.REWRITES), plain, name)
    if name == "inception_v3.tv_in1k:Mixed_6b":
        for rewrite in ij.REWRITES:
            same(step_of(part, maps, (rewrite,)), plain, f"{name} {rewrite}")
    # One module has a max pool, where ties must be broken equally; the other has sums.
    if name in ("inception_v3.Mixed_7a", "inception_resnet_v2.block8"):
        again = step_of(part, maps, ij.REWRITES, wrap=rematerialised)
        same(again, plain, f"{name} rematerialised")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
@pytest.mark.parametrize("name", ARCHS)
def test_rewritten_networks_give_the_plain_numbers(name, dtype):
    model, images, plain = plain_step(name)
    same(step_of(model, images, ij.REWRITES), plain, name)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
@pytest.mark.parametrize("name", ["inception_v3", "xception"])
def test_rematerialisation_gives_the_same_step(name, dtype):
    model, images, plain = plain_step(name)
    same(step_of(model, images, (), wrap=rematerialised), plain, name)


def test_rematerialisation_keeps_the_convolutions_alone(capsys):
    conv = ConvBN(64, 32, 3, bn_eps=1e-3, bn_momentum=0.9, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(nnx.view(conv, use_running_average=False))

    def loss(state, x):
        return jnp.square(nnx.merge(graphdef, state)(x)).sum()

    print_saved_residuals(rematerialised(loss), state, jnp.ones((2, 8, 8, 64)))
    kept = [line for line in capsys.readouterr().out.splitlines() if "argument" not in line]
    maps = [line for line in kept if "[2,8,8," in line]
    assert len(maps) == 1
    assert maps[0].startswith("f32[2,8,8,32] named 'convolution'")


@pytest.mark.parametrize("name", ["inception_resnet_v1", "inception_resnet_v2"])
def test_rematerialisation_keeps_the_sums_between_residual_blocks(name):
    """Rematerialisation stores the sum after each block, not the block's last convolution.

    Without the sums, the last block would be recomputed as a whole.
    """
    blocks = skeleton(name, width_multiplier=0.3).block17
    graphdef, state = nnx.split(nnx.view(blocks, use_running_average=False))
    channels = blocks[0].up.kernel.shape[-1]
    call = rematerialised(lambda state, x: nnx.merge(graphdef, state)(x).sum())
    x = jnp.ones((2, 4, 5, channels))
    with ij.rewritten():
        marked = equations(jax.make_jaxpr(call)(state, x).jaxpr)
        pulled = jax.eval_shape(lambda state, x: jax.vjp(call, state, x)[1], state, x)
    marked = [
        e for e in marked if e.primitive.name == "name" and e.outvars[0].aval.shape == x.shape
    ]
    assert len(marked) == 2 * len(blocks)  # each block's last convolution, and its sum
    maps = [leaf for leaf in jax.tree.leaves(pulled) if leaf.shape == x.shape]
    assert len(maps) == 1 + len(blocks)  # one of the two per block, and the input


def convolutions(function, *arrays):
    """Returns the kernel shapes of the convolutions in a traced function."""
    found = equations(jax.make_jaxpr(function)(*arrays).jaxpr)
    return [e.invars[1].aval.shape for e in found if e.primitive.name == "conv_general_dilated"]


def test_each_rewriting_can_be_seen_in_the_program():
    """The rewrites `siblings` and `pools` change the convolutions of the traced program.

    A rewrite without effect is thus noticed.
    """
    layers = [ConvBN(24, n, 1, bn_eps=1e-3, bn_momentum=0.9, rngs=nnx.Rngs(0)) for n in (8, 4, 2)]

    def module(x):
        return siblings_with_pool(x, *layers[:2], pooled=layers[2])

    x = jnp.ones((1, 5, 5, 24))

    def kernels(*names):
        with ij.rewritten(*names), forced_form("native"):
            return convolutions(module, x)

    assert kernels() == [(1, 1, 24, n) for n in (8, 4, 2)]
    assert kernels("siblings") == [(1, 1, 24, 12), (1, 1, 24, 2)]
    assert kernels("siblings", "pools") == [(1, 1, 24, 14)]


def test_the_choice_is_a_part_of_what_is_traced():
    model = network("inception_v1", "float32")
    images = jnp.asarray(random_images(model, "float32", (40, 40)))
    graphdef, state = nnx.split(model)
    call = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))
    call(state, images)
    with ij.rewritten():
        call(state, images)
    with ij.rewritten(*ij.DEFAULT_REWRITES):
        call(state, images)
    assert call._cache_size() == 2


def test_an_unknown_rewriting_is_named():
    with pytest.raises(ValueError, match=r"'sibling'.*siblings"), ij.rewritten("sibling"):
        pass

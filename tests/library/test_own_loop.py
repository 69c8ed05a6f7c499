"""Tests the code of docs/howto/own_loop.md, and Flax's tools on every network."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

import inception_jax as ij
from tests.helpers import tiny
from tests.helpers.networks import deep_ones_slow, options_for, skeleton

PAGE = Path(__file__).parents[2] / "docs/howto/own_loop.md"


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, optimizing_compiler):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
        if "result" in names:
            assert names["result"]["accuracy"] > 0.8  # chance is a third
    assert ij.load(tmp_path / "mine").classes[0] == "red"


@pytest.fixture(scope="module")
def network():
    with tiny.registered():
        yield ij.create_model("tiny", num_classes=4)


def test_tabulate_leaves_the_network_as_it_was(network):
    x = jnp.ones((2, 16, 16, 3))
    before = network(x)
    table = nnx.tabulate(network, x, depth=1)
    assert "conv1" in table
    np.testing.assert_array_equal(network(x), before)
    training = nnx.clone(network)
    training.train()
    assert "conv1" in nnx.tabulate(training, x, rngs=nnx.Rngs(0), depth=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", deep_ones_slow(ij.list_models()))
def test_every_network_is_tabulated(name):
    """`nnx.tabulate` works on every network in training mode, with auxiliary classifiers.

    This requires that the methods that `nnx.tabulate` calls have no side effects.
    """
    options = {**options_for(name), "width_multiplier": 0.1, "num_classes": 4}
    model = ij.create_model(name, **options)
    model.train()
    x = jnp.ones((2, 96, 96, 3))
    assert type(model).__name__ in nnx.tabulate(model, x, rngs=nnx.Rngs(0), depth=1)


@pytest.mark.parametrize("name", ["inception_resnet_v1", "inception_next_atto"])
def test_networks_with_repeated_blocks_are_closed_over(name):
    """A traced function may close over a network; evaluation leaves the network unchanged.

    These networks have repeated blocks, which are traced once.
    """
    blocks = {"blocks": (2, 2, 2)} if "resnet" in name else {}
    model = skeleton(name, width_multiplier=0.1, **blocks)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), nnx.state(model))
    nnx.update(model, zeros)
    x = jnp.ones((1, 75, 75, 3))
    for call in (model, model.features, model.embed):
        assert jax.tree.leaves(jax.eval_shape(call, x))[-1].shape[0] == 1
    # No tracer is left behind in the network.
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(nnx.state(model)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(nnx.state(model)))


def test_in_linen(network):
    x = jnp.ones((2, 16, 16, 3))
    linen = bridge.to_linen(tiny.Tiny, 4)
    variables = linen.init(jax.random.key(0), x)
    assert set(variables) == {"params", "batch_stats"}
    assert linen.apply(variables, x).shape == (2, 4)

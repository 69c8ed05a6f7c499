"""Tests what every network inherits from `Model`: hooks, training mode, and `classify`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.networks import WIDTH, filled, run, skeleton


def shapes(model: nnx.Module, call, *args):
    graphdef, state = nnx.split(model)
    return jax.eval_shape(lambda s, *a: call(nnx.merge(graphdef, s), *a), state, *args)


@pytest.mark.parametrize(
    "name",
    [
        "inception_v1",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("xception41", "xception41p")),
    ],
)
def test_a_hook_replaces_any_map(name):
    """A hook can replace a stage's feature map, and any named feature map inside a block."""
    model = filled(name, width_multiplier=WIDTH, num_classes=7)
    images = jax.random.normal(jax.random.key(0), (2, 40, 48, 3))

    def without(model, images):
        seen = []

        def hook(name, map):
            seen.append(name)
            return map

        maps = model.features(images, hook=hook)
        assert seen == list(maps)
        return maps, model.classify(maps)

    (maps, logits), _ = run(model, without, images)
    (plain, direct), _ = run(model, lambda m, x: (m.features(x), m(x)), images)
    assert list(maps) == list(plain)
    np.testing.assert_array_equal(logits, direct)
    changed = model.inner_taps[-1] if model.inner_taps else "inception4a"

    def zeroed(model, images):
        def hook(name, map):
            return jnp.zeros_like(map) if name == changed else map

        return model.features(images, hook=hook)

    found, _ = run(model, zeroed, images)
    after = list(maps).index(changed)
    for i, stage in enumerate(maps):
        # Not bit-equal, because XLA's older loop emitter, which the suite uses, rounds differently
        # in the two programs. Maps computed from zeros differ much more.
        same = np.allclose(found[stage], maps[stage], rtol=1e-4, atol=1e-4)
        assert same == (i < after), stage
    assert not np.asarray(found[changed]).any()


def test_the_twins_hook_is_the_same():
    torch = pytest.importorskip("torch")
    import reference_torch

    torch.manual_seed(0)
    twin = reference_torch.create_model("xception41", width_multiplier=WIDTH, num_classes=7)
    images, seen = torch.randn(1, 3, 40, 40), []
    maps = twin.features(images, hook=lambda name, map: seen.append(name) or 2 * map)
    assert seen == list(maps) == list(twin.features(images))
    torch.testing.assert_close(maps["conv1"], 2 * twin.features(images)["conv1"])
    assert not torch.equal(maps["conv2"], 2 * twin.features(images)["conv2"])
    torch.testing.assert_close(twin.classify(twin.features(images)), twin(images))


def test_training_mode():
    """`train`, `eval` and `nnx.view` set the mode; only training mode has auxiliary logits."""
    images = jax.ShapeDtypeStruct((2, 40, 40, 3), jnp.float32)
    options = dict(width_multiplier=WIDTH, num_classes=7)

    def outputs(model):
        return shapes(model, lambda m, x: m(x, rngs=nnx.Rngs(dropout=0)), images)

    model = skeleton("inception_v1", aux_heads=True, **options)
    assert not model.in_training
    assert outputs(model).shape == (2, 7)
    model.train()
    assert model.in_training
    assert not model.dropout.deterministic
    assert {k: v.shape for k, v in outputs(model).items()} == dict.fromkeys(
        ("logits", "aux1", "aux2"), (2, 7)
    )
    assert outputs(nnx.view(model, deterministic=True)).shape == (2, 7)
    model.eval()
    assert not model.in_training
    plain = nnx.view(skeleton("inception_v1", **options), deterministic=False)
    assert plain.in_training
    assert outputs(plain).shape == (2, 7)  # built without auxiliary classifiers
    with pytest.raises(ValueError, match="rngs"):
        shapes(plain, lambda m, x: m(x), images)

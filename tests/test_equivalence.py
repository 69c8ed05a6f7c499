"""The equivalence ladder: every network against its PyTorch twin, step by step.

A mistake shows on the lowest rung that it touches: blocks alone, then stages, logits, auxiliary
logits, gradients, running statistics.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from twins import (
    CLASSES,
    compare,
    distinct_readings,
    named_leaves,
    pair,
    random_images,
    run,
    to_nchw,
    to_numpy,
    twin_of,
)

import inception_jax as ij

ARCHS = ij.list_models()
WITH_AUX = [name for name in ARCHS if ij.model_info(name).aux_heads]

# Minimum, odd, even, and a side of each: what sets paddings apart.
SIZES = {"minimum": (0, 0), "odd": (24, 24), "even": (25, 25), "non-square": (9, 30)}


def options_for(name: str) -> dict:
    return {"aux_heads": True} if ij.model_info(name).aux_heads else {}


def size_of(name: str, kind: str) -> tuple[int, int]:
    smallest = ij.model_info(name).min_size
    return tuple(smallest + extra for extra in SIZES[kind])


@pytest.mark.parametrize("name", ARCHS)
def test_blocks_alone(name, dtype):
    """Each block gets the very input that the twin's block got, so errors do not add up."""
    model, twin = pair(name, dtype, **options_for(name))
    seen = {}
    hooks = [
        child.register_forward_hook(lambda _, x, y, key=key: seen.update({key: (x[0], y)}))
        for key, child in twin.named_children()
    ]
    twin.train()  # so that auxiliary heads run; their statistics are not compared here
    for module in twin.modules():
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    twin(to_nchw(random_images(model, dtype, size_of(name, "even"))))
    twin.eval()
    for hook in hooks:
        hook.remove()

    del seen["dropout"]
    assert len(seen) == len(list(twin.named_children())) - 1
    for key, (x, expected) in seen.items():
        ours, _ = run(getattr(model, key), lambda block, x: block(x), to_numpy(x))
        compare(ours, expected, dtype, f"{name}.{key}")


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("name", ARCHS)
def test_stages_and_logits(name, kind, dtype):
    model, twin = pair(name, dtype, **options_for(name))
    images = random_images(model, dtype, size_of(name, kind))
    forward = lambda m, x: (m.features(x), m.embed(x), m(x))  # noqa: E731
    (maps, vector, logits), _ = run(model, forward, images)
    expected = twin.features(to_nchw(images))
    assert list(maps) == list(expected)
    for stage in maps:
        compare(maps[stage], expected[stage], dtype, f"{name}.{stage}")
    compare(vector, twin.embed(to_nchw(images)), dtype, f"{name}.embed")
    compare(logits, twin(to_nchw(images)), dtype, f"{name} logits")
    assert logits.shape == (2, CLASSES)


@pytest.mark.parametrize("name", distinct_readings())
def test_readings(name):
    """Every reading that a tag asks for, with running variances down to 1e-14."""
    with jax.enable_x64(True):
        options = {} if ij.model_info(name).num_classes == 1000 else {"num_classes": None}
        model, twin = pair(name, "float64", hostile=True, **options)
        images = random_images(model, "float64", size_of(name, "even"))
        logits, _ = run(model, lambda m, x: m(x), images)
        compare(logits, twin(to_nchw(images)), "float64", name)


@pytest.mark.parametrize("name", ARCHS)
def test_training_step(name, dtype):
    """Logits in training, auxiliary logits, all gradients, and the statistics left behind."""
    model, twin = pair(name, dtype, **options_for(name))
    images = random_images(model, dtype, size_of(name, "odd"), n=8)
    rng = np.random.default_rng(3)
    heads = ["logits", *(ij.model_info(name).aux_heads)]
    pulls = {head: rng.normal(size=(8, CLASSES)).astype(dtype) for head in heads}

    model.train()
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    model.eval()

    @jax.jit
    def step(params, stats):
        def loss(params):
            merged = nnx.merge(graphdef, params, stats)
            out = merged(images, rngs=nnx.Rngs(dropout=0))
            out = out if isinstance(out, dict) else {"logits": out}
            total = sum((out[head] * pulls[head]).sum() for head in heads)
            return total, (out, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat)))

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (out, new_stats)), grads = step(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))

    twin = twin_of(model, name, dtype, **options_for(name)).train()
    expected = twin(to_nchw(images))
    expected = expected if isinstance(expected, dict) else {"logits": expected}
    assert set(out) == set(expected) == set(heads)
    sum((expected[head] * torch.from_numpy(pulls[head])).sum() for head in heads).backward()
    for head in heads:
        compare(out[head], expected[head], dtype, f"{name} {head} in training")
    ours = named_leaves(grads)
    theirs = {key: p.grad.numpy() for key, p in twin.named_parameters()}
    assert set(ours) == set(theirs)
    for key in ours:
        compare(ours[key], theirs[key], dtype, f"{name} gradient of {key}")
    ours = named_leaves(new_stats)
    for key, buffer in twin.named_buffers():
        if not key.endswith("num_batches_tracked"):
            compare(ours[key], buffer.numpy(), dtype, f"{name} {key} after a step")

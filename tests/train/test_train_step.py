"""Tests the compiled training step with a small network that compiles in a second."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from inception_jax.nn.forms import convolutions_are_native
from inception_jax.nn.layers import ConvBN, Linear, global_avg_pool
from inception_jax.nn.rewrites import DEFAULT_REWRITES, REWRITES
from train.config.fields import override
from train.engine import functional, job
from train.engine.augmentation import Augmentation
from train.engine.functional import split
from train.engine.step import (
    init_state,
    make_eval_step,
    make_gradients,
    make_loss,
    make_train_step,
    update,
)
from train.errors import UsageError
from train.hosts.devices import BatchOptions, Devices
from train.run.command_line import Config


class Small(nnx.Module):
    """A network of one convolution, a classifier and an auxiliary classifier."""

    classifiers = ("fc", "aux")

    def __init__(self, dropout: float = 0.0, dtype="float32"):
        options = dict(dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
        self.conv = ConvBN(1, 6, 3, stride=2, bn_eps=1e-3, bn_momentum=0.9, **options)
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.fc = Linear(6, 10, **options)
        self.aux = Linear(6, 10, **options)

    def __call__(self, images, *, rngs=None):
        x = self.dropout(global_avg_pool(self.conv(images)), rngs=rngs)
        if self.dropout.deterministic:
            return self.fc(x)
        return {"logits": self.fc(x), "Aux": self.aux(x)}


CONFIG = override(Config(), dict(arch="xception", image_size=20, ema_decay=0.5, batch_size=8))


def changed(config: Config = CONFIG, **options) -> Config:
    return override(config, options)


def prepare(images, config: Config = CONFIG):
    return augmentation(config).prepare(jnp.asarray(images))


def augmentation(config: Config) -> Augmentation:
    network = config.network
    return Augmentation(config.augmentation, network.arch, config.input.image_size, network.dtype)


def gradients_of(train_def, config: Config, spread=lambda x: x):
    forward = functional.make_forward(train_def, config.network)
    loss = make_loss(forward, augmentation(config), config.step, 10)
    return make_gradients(loss, config.batch, config.run.seed, spread)


def train_step(train_def, tx, config: Config, spread=lambda x: x):
    return make_train_step(gradients_of(train_def, config, spread), tx, config.step)


def eval_step(eval_def, config: Config = CONFIG):
    return make_eval_step(functional.make_predict(eval_def, config.network), augmentation(config))


def batches(count: int, size: int = 8):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {
            "image": rng.integers(0, 256, (size, 12, 12, 1), np.uint8),
            "label": rng.integers(0, 10, size).astype(np.int32),
        }


def train(steps, model: nnx.Module | None = None, sharding=None, config=CONFIG, size=8):
    train_def, _, params, stats = split(
        model or Small(), freeze_backbone=config.network.freeze_backbone
    )
    tx = optax.sgd(0.1)
    state = init_state(params, stats, tx, averages=config.step.ema_decay > 0)
    step = jax.jit(train_step(train_def, tx, config), donate_argnums=0)
    if sharding is not None:
        state = jax.device_put(state, sharding.replicated)
        step = jax.jit(
            train_step(train_def, tx, config, sharding.spread),
            donate_argnums=0,
            out_shardings=sharding.replicated,
        )
    history = []
    for batch in batches(steps, size):
        state, metrics = step(state, sharding.put(batch) if sharding else batch)
        history.append((jax.device_get(state), jax.device_get(metrics)))
    assert step._cache_size() == 1  # one compilation for all steps
    return history


def test_a_network_without_batch_norm_learns():
    """A network without BatchNorm, such as the original GoogLeNet, learns."""
    model = Small()
    model.conv = model.conv.conv
    *_, (state, metrics) = train(3, model)
    assert np.isfinite(metrics["loss"])
    assert jax.tree.leaves(state.stats) == []
    assert np.abs(state.params["conv"]["kernel"] - Small().conv.conv.kernel[...]).max() > 1e-4
    functional.head_view(model)  # a run that first trains only the classifier needs this view


def test_a_frozen_backbone_stays_and_its_classifiers_learn():
    start = Small()
    nnx.update(start.conv.bn, {"mean": jnp.full(6, 0.3), "var": jnp.full(6, 1.7)})
    before = jax.tree.map(
        np.array, nnx.to_pure_dict(nnx.state(start))
    )  # training takes its buffers
    config = changed(freeze_backbone=True)
    *_, (state, _) = train(3, start, config=config)
    assert set(state.params) == {"fc", "aux"}
    for rest in (state.stats, state.ema_stats):
        jax.tree.map(np.testing.assert_array_equal, rest["conv"], before["conv"])
    for trained in (state.params, state.ema_params):
        assert np.abs(trained["fc"]["kernel"] - before["fc"]["kernel"]).max() > 1e-4


def test_loss_is_smoothed_and_weighs_the_auxiliary_head():
    model = Small()
    (_, metrics), *_ = train(1)
    batch = next(batches(1))
    model.train()
    out = model(prepare(batch["image"]), rngs=nnx.Rngs(dropout=0))
    targets = np.full((8, 10), 0.1 / 10)
    targets[np.arange(8), batch["label"]] += 0.9
    loss = {k: -(targets * jax.nn.log_softmax(v)).sum(-1).mean() for k, v in out.items()}
    np.testing.assert_allclose(metrics["loss"], loss["logits"] + 0.4 * loss["Aux"], rtol=1e-5)
    plain = -jax.nn.log_softmax(out["logits"])[np.arange(8), batch["label"]].mean()
    np.testing.assert_allclose(metrics["cross_entropy"], plain, rtol=1e-5)  # as evaluation's
    assert metrics["accuracy"] == (out["logits"].argmax(-1) == batch["label"]).mean()


def test_averages_follow_tensorflows_warm_up():
    history = [state for state, _ in train(3)]
    start = split(Small())
    params, stats = start[2]["fc"]["kernel"], start[3]["conv"]["bn"]["mean"]
    for n, state in enumerate(history):
        decay = min(CONFIG.step.ema_decay, (1 + n) / (10 + n))
        params = decay * params + (1 - decay) * state.params["fc"]["kernel"]
        stats = decay * stats + (1 - decay) * state.stats["conv"]["bn"]["mean"]
        np.testing.assert_allclose(state.ema_params["fc"]["kernel"], params, rtol=1e-5)
        np.testing.assert_allclose(state.ema_stats["conv"]["bn"]["mean"], stats, rtol=1e-5)
    assert [int(state.step) for state in history] == [1, 2, 3]


def test_dropout_draws_anew_each_step_and_follows_the_seed():
    def losses(seed):
        config = changed(seed=seed)
        return [float(m["loss"]) for _, m in train(3, Small(dropout=0.5), config=config)]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_two_devices_train_as_one():
    """Two devices give the losses and weights of one device, up to rounding.

    BatchNorm sees the global batch, so sharding changes only the order of sums.
    """
    assert jax.device_count() == 2
    one, two = train(4), train(4, sharding=Devices(BatchOptions(8)))
    for (a, x), (b, y) in zip(one, two, strict=True):
        np.testing.assert_allclose(x["loss"], y["loss"], rtol=1e-5)
        jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-6), a, b)
    with pytest.raises(UsageError, match="--batch-size 9 is not a multiple of 2 devices"):
        Devices(BatchOptions(9))


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, **tolerance), a, b)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.8, "cutmix": 1.0, "random_erasing": 0.5}])
def test_a_batch_in_parts_is_the_batch_in_groups(groups, mixing):
    """A batch in four sequential parts trains like the whole batch with the same BatchNorm groups.

    The two runs have the same gradients, statistics and dropout.
    """
    with jax.enable_x64(True):
        config = changed(batch_size=16, dtype="float64", **mixing)
        size = 16 // 4 // groups
        parts = changed(config, grad_accum=4, bn_group=size)
        whole = changed(config, bn_group=size)
        histories = []
        for options in (parts, whole):
            histories.append(train(3, Small(0.5, "float64"), config=options, size=16))
        for (a, x), (b, y) in zip(*histories, strict=True):
            # Mixing draws shares by powers and logarithms. XLA's older loop emitter, with which the
            # tests are compiled, rounds them differently in two programs, by 1e-9.
            rtol = 1e-8 if mixing else 1e-10
            assert_close(x, y, rtol=rtol)
            assert_close(a, b, rtol=rtol, atol=1e-12 if not mixing else 1e-9)
    assert x["loss"].dtype == np.float64


def test_groups_have_statistics_of_their_own():
    """Two BatchNorm groups give the mean of the gradients and statistics of two batches."""
    config = changed(bn_group=4)
    train_def, _, params, stats = split(Small())
    state = init_state(params, stats, optax.sgd(0.1))
    batch = next(batches(1))
    grads, new, metrics = gradients_of(train_def, config)(state, batch)
    half = gradients_of(train_def, changed(batch_size=4))
    each = [half(state, {k: v[i : i + 4] for k, v in batch.items()}) for i in (0, 4)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *each)
    assert_close((grads, new, metrics), mean, rtol=1e-5, atol=1e-7)
    together, *_ = gradients_of(train_def, CONFIG)(state, batch)
    difference = together["conv"]["conv"]["kernel"] - grads["conv"]["conv"]["kernel"]
    assert np.abs(difference).max() > 1e-4


def test_a_batch_in_parts_without_statistics_is_the_batch():
    """With a frozen backbone, a batch in parts trains like the whole batch.

    BatchNorm's statistics are fixed, so no image depends on the rest of the batch.
    """
    config = changed(freeze_backbone=True)
    whole = train(3, config=config)
    parts = train(3, config=changed(config, grad_accum=4))
    for (a, x), (b, y) in zip(whole, parts, strict=True):
        assert_close(x, y, rtol=1e-5)
        assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"remat": True},
        {"remat": True, "grad_accum": 2},
        {"rewrites": ()},
        {"rewrites": DEFAULT_REWRITES, "remat": True},
    ],
)
def test_neither_rematerialisation_nor_rewritings_change_a_run(options):
    """Neither `remat` nor `rewrites` changes the losses and weights of a run.

    The network has dropout, so rematerialisation must draw the same mask again.
    """
    with jax.enable_x64(True):
        config = changed(dtype="float64", **options)
        other = changed(config, remat=False, rewrites=REWRITES)
        runs = [train(3, Small(0.3, "float64"), config=c) for c in (config, other)]
    for (a, x), (b, y) in zip(*runs, strict=True):
        assert_close(x, y, rtol=1e-10)
        assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"bn_group": 4}, {"bn_group": 2}, {"grad_accum": 2}, {"bn_group": 8}]
)
def test_groups_and_parts_on_two_devices(options):
    config = changed(batch_size=16, **options)
    one = train(3, config=config, size=16)
    two = train(3, config=config, size=16, sharding=Devices(config.batch))
    for (a, x), (b, y) in zip(one, two, strict=True):
        assert_close(x, y, rtol=1e-5)
        assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_pmap_form_gives_the_same_numbers():
    """A step with `jax.pmap` and `pmean` gives the same numbers as the sharded step.

    Each replica has its own batch statistics, like a BatchNorm group of the sharded step.
    """
    config = changed(bn_group=4, ema_decay=0.9)
    train_def, _, params, stats = split(Small(dropout=0.5))
    tx = optax.sgd(0.1, momentum=0.9)
    state = init_state(params, stats, tx)
    gradients = gradients_of(train_def, config)

    def replica(state, batch):
        out = gradients(state, batch, first_group=jax.lax.axis_index("data"))
        return update(state, *jax.lax.pmean(out, "data"), tx, config.step)

    mapped = jax.pmap(replica, axis_name="data", in_axes=(None, 0), out_axes=None)
    devices = Devices(config.batch)
    step = jax.jit(train_step(train_def, tx, config, devices.spread))
    other = jax.device_put(state, devices.replicated)
    for batch in batches(4):
        state, metrics = mapped(state, {k: v.reshape(2, 4, *v.shape[1:]) for k, v in batch.items()})
        other, expected = step(other, devices.put(batch))
        assert_close(jax.device_get(metrics), jax.device_get(expected), rtol=1e-5)
        assert_close(jax.device_get(state), jax.device_get(other), rtol=1e-4, atol=1e-6)


def test_devices_that_cannot_share_a_batch():
    for options, words in (
        ((8, 3), "--grad-accum 3"),
        ((8, 1, 3), "--bn-group 3"),
        ((12, 2, 4), "--bn-group 4"),
        ((6, 1, 1), None),
    ):
        if words is None:
            Devices(BatchOptions(*options))
        else:
            with pytest.raises(UsageError, match=words):
                Devices(BatchOptions(*options))


def test_a_step_that_is_not_finite_is_skipped_whole():
    config = changed(on_nan="skip")
    train_def, _, params, stats = split(Small())
    tx = optax.sgd(0.1, momentum=0.9)
    state = init_state(params, stats, tx)
    step = train_step(train_def, tx, config)
    good, bad = batches(2)
    state, _ = step(state, good)
    spoilt = jax.tree.map(lambda x: x, state)
    spoilt.params["fc"]["bias"] = spoilt.params["fc"]["bias"].at[0].set(jnp.nan)
    after, metrics = step(spoilt, bad)
    assert not np.isfinite(metrics["loss"])
    assert after.step == 2
    assert_close(dataclasses.replace(after, step=state.step), spoilt, rtol=0)
    after, metrics = step(state, bad)
    assert np.isfinite(metrics["loss"])
    assert (after.params["fc"]["bias"] != state.params["fc"]["bias"]).any()


def test_without_averages_the_weights_themselves_are_evaluated():
    *_, (state, _) = train(2, config=changed(ema_decay=0.0))
    assert state.ema_params is None
    assert state.averaged == (state.params, state.stats)


def test_views_of_an_image_are_averaged():
    _, eval_def, params, stats = split(Small())
    step = jax.jit(eval_step(eval_def))
    batch = next(batches(1, 6))
    label = batch["label"][:2]
    views = batch["image"].reshape(2, 3, *batch["image"].shape[1:])
    out = step(params, stats, {"image": views, "label": label, "mask": np.ones(2, np.float32)})
    logits = Small()(prepare(batch["image"]))
    mean = np.asarray(jax.nn.softmax(logits)).reshape(2, 3, 10).mean(1)
    np.testing.assert_array_equal(out["prediction"], mean.argmax(1))
    np.testing.assert_allclose(out["loss"], -np.log(mean[np.arange(2), label]).sum(), rtol=1e-5)


def test_evaluation_counts_masked_images_not_at_all():
    _, eval_def, params, stats = split(Small())
    step = jax.jit(eval_step(eval_def))
    batch = next(batches(1, 6))
    part = {k: np.concatenate([v, v[:2]]) for k, v in batch.items()}
    whole = step(params, stats, {**batch, "mask": np.ones(6, np.float32)})
    padded = step(params, stats, {**part, "mask": np.r_[np.ones(6), 0, 0].astype(np.float32)})
    assert whole["examples"] == padded["examples"] == 6
    for key in ("top1", "top5", "loss"):
        np.testing.assert_allclose(whole[key], padded[key], rtol=1e-6)
    model = Small()
    logits = np.asarray(model(prepare(batch["image"])))
    order = (-logits).argsort(-1)
    hits = order == batch["label"][:, None]
    assert whole["top1"] == hits[:, :1].sum()
    assert whole["top5"] == hits[:, :5].sum()


def test_images_are_scaled_and_resized():
    images = jnp.asarray([[[[0], [255]], [[255], [0]]]], jnp.uint8)
    out = prepare(images, changed(image_size=4, dtype="bfloat16"))
    assert out.shape == (1, 4, 4, 1)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out[0, [0, 0, 3], [0, 3, 3], 0].astype(np.float32), [-1, 1, -1])


@pytest.mark.parametrize(
    ("options", "native"),
    [
        ({}, False),
        ({"xla_cpu_enable_fast_min_max": False}, False),
        ({"xla_cpu_experimental_onednn_custom_call": True}, True),
    ],
)
def test_convolutions_for_onednn_are_native(options, native):
    traced = []

    def step(state, batch):
        traced.append(convolutions_are_native(jnp.float32))
        return state, batch

    devices = Devices(CONFIG.batch)
    state = jax.device_put(jnp.zeros(3), devices.replicated)
    batch = jax.device_put(jnp.zeros((8, 2)), devices.sharded)
    compiled = job.jit(step, devices, options).lower(state, batch).compile()
    assert traced == [native]
    assert [part.shape for part in compiled(state, batch)] == [(3,), (8, 2)]

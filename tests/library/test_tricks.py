"""Tests how `benchmarks/tricks.py` trains, measures and resumes runs."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from benchmarks import trick_networks, trick_runs, tricks
from benchmarks import trick_statistics as measures
from benchmarks.trick_list import TRICKS
from train.data.open_dataset import open_dataset
from train.engine.training_options import OptimizerOptions

REDUCTIONS = TRICKS["reductions"].arms


def run_of(top1: float = 0.5, **values) -> measures.Run:
    """Returns a run with the given final accuracy; `values` replace other fields of the run."""
    plain = measures.Run([2.3, 1.0], [(10, top1)], [], 1.0, 0.1, 3.0, [(1.0, 0.6, top1)], 1.0)
    return dataclasses.replace(plain, **values)


def test_the_interval_is_students():
    found = measures.paired_interval([1, 2, 3, 4, 5])
    assert found.mean == 3
    reach = 2.776445 * math.sqrt(2.5 / 5)  # t of 0.975 with four degrees of freedom, by a table
    assert (found.low, found.high) == pytest.approx((3 - reach, 3 + reach), abs=1e-5)
    with pytest.raises(ValueError, match="two pairs at least"):
        measures.paired_interval([1.0])


def test_the_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(1.0, 2.0, (2000, 5))
    found = [measures.paired_interval(list(draw)) for draw in draws]
    covered = np.mean([each.low <= 1 <= each.high for each in found])
    assert covered == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("low", "high", "higher", "lower", "equal"),
    [
        (0.1, 0.9, "seen", "reversed", "seen"),
        (0.5, 3.0, "seen", "reversed", "reversed"),
        (-0.9, -0.1, "reversed", "seen", "seen"),
        (-3.0, -0.1, "reversed", "seen", "reversed"),
        (-0.5, 0.5, "not seen at this scale", "not seen at this scale", "seen"),
        (-3.0, 3.0, "not seen at this scale", "not seen at this scale", "not seen at this scale"),
    ],
)
def test_the_rule_of_the_verdict(low, high, higher, lower, equal):
    interval = measures.Interval((low + high) / 2, low, high)
    assert measures.verdict(interval, "higher") == higher
    assert measures.verdict(interval, "lower") == lower
    assert measures.verdict(interval, "equal", margin=1.0) == equal
    assert measures.verdict(interval, "open") == "no claim"


def test_numbers_that_are_not_finite_prove_nothing():
    interval = measures.paired_interval([math.nan, 1.0])
    assert measures.verdict(interval, "higher") == "not seen at this scale"
    assert measures.verdict(interval, "equal", 1.0) == "not seen at this scale"


@pytest.mark.parametrize(("hits", "error"), [(3, 0.0), (2, 0.25), (4, 0.25), (0, 0.75)])
def test_the_calibration_error(hits, error):
    """The calibration error of one bin is the distance between accuracy and confidence.

    Four images are each classified with a confidence of 75 %.
    """
    logits = np.tile([math.log(3), 0.0], (4, 1))
    labels = np.array([0] * hits + [1] * (4 - hits))
    bins = measures.calibration(logits, labels)
    assert measures.calibration_error(bins) == pytest.approx(error, abs=1e-9)
    assert sum(share for share, _, _ in bins) == 1


def test_errors_of_two_bins_do_not_cancel():
    logits = np.array([[math.log(3), 0.0]] * 2 + [[math.log(19), 0.0]] * 2)  # 75 %, 95 %
    labels = np.array([0, 0, 0, 1])
    found = measures.calibration_error(measures.calibration(logits, labels))
    assert found == pytest.approx((0.25 + 0.45) / 2)


def test_gap_and_cross_entropy_of_logits():
    logits = np.array([[5.0, 1.0, 3.0], [0.0, 4.0, 2.0]])
    assert measures.logit_gap(logits) == pytest.approx(3)
    labels = np.array([0, 2])
    expected = optax.softmax_cross_entropy_with_integer_labels(jnp.array(logits), labels).mean()
    assert measures.cross_entropy(logits, labels) == pytest.approx(float(expected), rel=1e-5)


def test_steps_to_an_accuracy():
    run = run_of(curve=[(10, 0.4), (20, 0.8), (30, 0.7)])
    assert measures.steps_to(0.2)(run) == 5
    assert measures.steps_to(0.6)(run) == pytest.approx(15)
    assert measures.steps_to(0.9)(run) == 30


def test_claims_are_about_arms_that_exist():
    for key, trick in TRICKS.items():
        names = [arm.name for arm in trick.arms]
        assert len(set(names)) == len(names), key
        for claim in trick.claims:
            assert {claim.arm, claim.other} <= set(names), claim
            assert (claim.direction == "equal") == (claim.margin > 0), claim
            assert claim.arm != claim.other or claim.other_measure is not None, claim
        for arm in trick.arms:
            trick_runs.configuration(arm, arm.steps)  # every option exists


def test_torch_rmsprop_is_pytorchs():
    torch = pytest.importorskip("torch")
    options = OptimizerOptions(rms_decay=0.9, rms_eps=0.5, momentum=0.8)
    rates = [0.1, 0.1, 0.05, 0.02]
    rule = trick_runs.torch_rmsprop(options, lambda step: jnp.array(rates)[step])
    params = {"kernel": jnp.array([1.0, -2.0])}
    state = rule.init(params)
    own = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    twin = torch.optim.RMSprop([own], lr=0.1, alpha=0.9, eps=0.5, momentum=0.8)
    for i, rate in enumerate(rates):
        grads = np.array([1.0 + i, -0.3 * i], np.float32)
        updates, state = rule.update({"kernel": jnp.array(grads)}, state, params)
        params = optax.apply_updates(params, updates)
        own.grad = torch.tensor(grads)
        twin.param_groups[0]["lr"] = rate
        twin.step()
    assert params["kernel"] == pytest.approx(own.detach().numpy(), abs=1e-6)


def test_a_change_leaves_all_other_parameters():
    options = dict(width_multiplier=0.1, dropout=0.0)
    changes = ("ratio 1/8, band 11", "ratio 1/4, band 11")
    one, two = (
        trick_networks.build("inception_next_atto", options, change, 10, 1, 3) for change in changes
    )
    first, second = (nnx.to_flat_state(nnx.state(net, nnx.Param)) for net in (one, two))
    differ = {
        path
        for (path, a), (_, b) in zip(first, second, strict=True)
        if a.shape != b.shape or not np.array_equal(a[...], b[...])
    }
    assert differ
    assert all("token_mixer" in path for path in differ)


def test_an_activation_stands_between_depthwise_and_pointwise():
    layer = trick_networks.SeparableConvBN(2, 2, **trick_networks.BN, rngs=nnx.Rngs(0))
    model = trick_networks.Small([layer], 2, num_classes=3, in_channels=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 2))
    expected = layer.bn(layer.pointwise(jax.nn.relu(layer.depthwise(x))))
    before = layer(x)
    trick_networks.relu_between(model, nnx.Rngs(0))
    np.testing.assert_allclose(model.layers[0](x), expected, atol=1e-6)
    assert not np.allclose(before, expected)


def test_a_segment_a_channel_is_a_separable_convolution():
    one = trick_networks.Segmented(4, 6, 4, rngs=nnx.Rngs(0))
    other = trick_networks.SeparableConvBN(4, 6, **trick_networks.BN, rngs=nnx.Rngs(0))
    kernels = [conv.kernel[...] for conv in one.spatial]
    other.depthwise.kernel.set_value(jnp.concatenate(kernels, axis=-1))
    other.pointwise.kernel.set_value(one.pointwise.kernel[...])
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    one.eval(), other.eval()
    np.testing.assert_allclose(one(x), jax.nn.relu(other(x)), atol=1e-5)


@pytest.mark.slow
def test_arms_train_alike_under_equal_seeds():
    """Runs of one variant with equal seeds are equal; another seed gives another run."""
    dataset = open_dataset("fashion_mnist")
    trainer = trick_runs.Trainer(dataclasses.replace(REDUCTIONS[0], images=64), dataset, 1, {})
    one, again, other = trainer.run(0), trainer.run(0), trainer.run(1)
    assert one.losses == again.losses
    assert one.curve == again.curve
    assert one.losses != other.losses
    assert 0 <= one.curve[-1][1] <= 1
    assert 0 <= one.ece <= 1
    renamed = dataclasses.replace(REDUCTIONS[0], images=64, training=REDUCTIONS[1].training)
    assert trick_runs.Trainer(renamed, dataset, 1, {}).run(0).losses == one.losses


def test_finished_runs_are_kept(tmp_path):
    path = tmp_path / "runs" / "tricks.json"
    arm, run = REDUCTIONS[0], run_of(curve=[(5, 0.25)], losses=[1.5, math.inf])
    trick_runs.Results(path).add(arm, "fashion_mnist", 5, 0, run)
    again = trick_runs.Results(path)
    found = again.get(dataclasses.replace(arm, name="another"), "fashion_mnist", 5, 0)
    assert found is not None
    assert measures.TOP1.of(found) == 25
    assert found.losses == run.losses
    for other in ((REDUCTIONS[1], "fashion_mnist", 5, 0), (arm, "folder", 5, 0),
                  (arm, "fashion_mnist", 6, 0), (arm, "fashion_mnist", 5, 1)):  # fmt: skip
        assert again.get(*other) is None
    assert trick_runs.all_of(again, arm, "fashion_mnist", 5, range(2)) is None


def test_a_cut_command_resumes_and_writes_the_page(tmp_path, monkeypatch):
    trained = []

    class Stand:
        def __init__(self, arm, dataset, steps, programs):
            self.arm = arm

        def run(self, seed):
            if len(trained) == 4:
                raise KeyboardInterrupt
            trained.append((self.arm.name, seed))
            top1 = {"pool, convolution": 0.5, "side by side": 0.8}.get(self.arm.name, 0.6)
            return run_of(top1 + 0.001 * seed)

    monkeypatch.setattr(tricks, "Trainer", Stand)
    options = tricks.Options(
        only=("reductions",), seeds=2, results=tmp_path / "tricks.json", docs=tmp_path
    )
    with pytest.raises(KeyboardInterrupt):
        tricks.main(options)
    assert len(trained) == 4
    assert not (tmp_path / "tricks.md").exists()
    stopped = list(trained)
    trained.clear()
    tricks.main(options)
    assert len(trained) == 2
    assert not set(trained) & set(stopped)
    text = (tmp_path / "tricks.md").read_text()
    assert (tmp_path / "tricks.reductions.png").stat().st_size > 1000
    words = ("**seen**", "**reversed**")
    rows = [line for line in text.splitlines() if line.endswith(tuple(f"{w} |" for w in words))]
    assert [row.split("|")[-2].strip() for row in rows] == ["**seen**", "**seen**", "**reversed**"]
    assert "Not run: `smoothing`" in text


@pytest.mark.slow
def test_a_trick_runs_to_its_end(tmp_path):
    options = tricks.Options(
        only=("reductions",),
        seeds=2,
        steps_scale=0.03,
        results=tmp_path / "tricks.json",
        docs=tmp_path,
    )
    tricks.main(options)
    assert "seeds 0 to 1" in (tmp_path / "tricks.md").read_text()

"""The training programme's parts, without a network."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import inception_jax as ij
from train import data, optimizer, reporting
from train.config import Config, claim_workdir, parse
from train.errors import UsageError
from train.recipes import RECIPES


@pytest.fixture(scope="module")
def dataset():
    return data.load_dataset("fashion_mnist")


def test_embedded_images(dataset):
    assert dataset.train_images.shape == (6000, 28, 28, 1)
    assert dataset.test_images.shape == (1000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(dataset.train_labels), [600] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), [100] * 10)
    assert sum(f.stat().st_size for f in data.EMBEDDED.iterdir()) < 4e6
    assert "Copyright © 2017 Zalando SE" in (data.EMBEDDED / "README.md").read_text()
    # No test image is a training image.
    seen = {image.tobytes() for image in dataset.train_images}
    assert not any(image.tobytes() in seen for image in dataset.test_images)


def test_an_epoch_shows_every_image_once_in_its_own_order(dataset):
    def labels(epoch, seed=0):
        return np.concatenate(
            [data.train_batch(dataset, 60 * epoch + i, 100, seed)["label"] for i in range(60)]
        )

    np.testing.assert_array_equal(np.bincount(labels(0)), [600] * 10)
    assert (labels(0) == labels(0)).all()
    assert (labels(0) != labels(1)).any()
    assert (labels(0) != labels(0, seed=1)).any()


def test_processes_share_a_batch_without_changing_it(dataset):
    whole = data.train_batch(dataset, 7, 12, seed=3)
    shares = [data.train_batch(dataset, 7, 12, 3, process, 3) for process in range(3)]
    for key in whole:
        together = np.stack([share[key] for share in shares], axis=1)
        np.testing.assert_array_equal(together.reshape(whole[key].shape), whole[key])


def test_images_are_mirrored_at_random(dataset):
    batch = data.train_batch(dataset, 0, 600, seed=0)
    originals = {image.tobytes() for image in dataset.train_images}
    mirrored = {np.ascontiguousarray(i[:, ::-1]).tobytes() for i in dataset.train_images}
    kept = np.mean([image.tobytes() in originals for image in batch["image"]])
    assert 0.4 < kept < 0.6
    assert all(i.tobytes() in originals | mirrored for i in batch["image"])


@pytest.mark.parametrize("processes", [1, 4])
def test_evaluation_shows_every_image_once(dataset, processes):
    parts = [
        list(data.evaluation_batches(dataset, 64, process, processes))
        for process in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1  # else a collective would wait for ever
    batches = [batch for part in parts for batch in part]
    assert sum(batch["mask"].sum() for batch in batches) == 1000
    shown = np.concatenate([b["image"][b["mask"] == 1] for b in batches])
    assert sorted(i.tobytes() for i in shown) == sorted(i.tobytes() for i in dataset.test_images)


def config(**options) -> Config:
    return dataclasses.replace(Config(arch="xception"), **options)


def test_optimizer_is_tensorflows_rmsprop():
    """Twelve steps against TensorFlow's rule in NumPy: decaying rate, momentum, L2, norm limit."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "bias": (3,), "scale": (3,)}
    w = {k: rng.normal(size=s) for k, s in shapes.items()}
    square = {k: np.ones(s) for k, s in shapes.items()}  # TensorFlow starts it at one
    moved = {k: np.zeros(s) for k, s in shapes.items()}
    options = config(lr_decay=0.8, lr_decay_epochs=0.5, weight_decay=0.1, clip_norm=2.0)
    steps_per_epoch = 6
    with jax.enable_x64(True):
        tx = optimizer.make_optimizer(options, steps_per_epoch)
        params = {"layer": {k: jnp.asarray(v) for k, v in w.items()}}
        state = tx.init(params)
        for step in range(12):
            grads = {k: 3 * rng.normal(size=s) for k, s in shapes.items()}
            updates, state = tx.update(
                {"layer": {k: jnp.asarray(g) for k, g in grads.items()}}, state, params
            )
            params = optax.apply_updates(params, updates)

            grads["kernel"] = grads["kernel"] + 0.1 * w["kernel"]
            norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
            rate = 0.045 * 0.8 ** (step / (0.5 * steps_per_epoch))
            for k in shapes:
                g = grads[k] * min(1, 2.0 / norm)
                square[k] = 0.9 * square[k] + 0.1 * g**2
                moved[k] = 0.9 * moved[k] + rate * g / np.sqrt(square[k] + 1.0)
                w[k] = w[k] - moved[k]
                np.testing.assert_allclose(params["layer"][k], w[k], rtol=1e-10)


@pytest.mark.parametrize(("recipe", "arch"), [(r, a) for r in RECIPES for a in RECIPES[r]])
def test_recipes_fit_their_networks(recipe, arch):
    options = parse(["--arch", arch, "--recipe", recipe])
    assert options.image_size >= ij.model_info(arch).min_size
    assert set(RECIPES[recipe][arch]) <= {f.name for f in dataclasses.fields(Config)}


def test_options_go_over_the_recipe():
    options = parse(["--arch", "inception_v3", "--batch-size", "8", "--workdir", "w", "--steps=3"])
    assert (options.batch_size, str(options.workdir), options.steps) == (8, "w", 3)
    assert options.image_size == RECIPES["demo"]["inception_v3"]["image_size"]
    assert str(parse(["--arch", "inception_v3"]).workdir) == "runs/inception_v3"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--recipe", "demon"], ["demon", "demo"]),
        (["--image-size", "70"], ["--image-size 70", "71"]),
        (["--batch-size", "0"], ["--batch-size 0"]),
        (["--epochs", "nan"], ["--epochs nan"]),
        (["--learning-rate", "-1"], ["--learning-rate -1"]),
        (["--ema-decay", "1"], ["--ema-decay 1"]),
        (["--init-from", "absent.safetensors"], ["absent.safetensors"]),
        (["--freeze-backbone"], ["--freeze-backbone", "--init-from"]),
        (["--arch"], ["--arch"]),
    ],
)
def test_unusable_options_are_named(argv, words):
    with pytest.raises(UsageError) as error:
        parse(argv)
    assert all(word in str(error.value) for word in words)


def test_help_says_default_and_unit_of_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--arch", "inception_v3", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "default: 75" in text  # the recipe's, not the class's


def test_workdir_of_another_configuration(tmp_path):
    first = config(workdir=tmp_path / "w", batch_size=8)
    claim_workdir(dataclasses.replace(first, batch_size=4))
    claim_workdir(first)  # nothing was saved yet, so nothing can be spoilt
    (tmp_path / "w/checkpoints/50").mkdir(parents=True)
    claim_workdir(dataclasses.replace(first, steps=9, log_every=1))  # goes on for longer
    with pytest.raises(UsageError, match=r"batch_size 8, now 16.*another --workdir"):
        claim_workdir(dataclasses.replace(first, batch_size=16))
    (tmp_path / "w/config.json").write_text('{"arch": ')
    with pytest.raises(UsageError, match="damaged"):
        claim_workdir(first)


def test_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        claim_workdir(config(workdir=tmp_path / "file/w"))


def test_metrics_after_the_last_checkpoint_are_dropped(tmp_path, capsys):
    steps = [{"kind": "train", "step": s, "loss": 1.0, "lr": 0.1} for s in (10, 20, 30)]
    lines = [json.dumps(entry) for entry in steps]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"kind": "tra')
    report = reporting.Reporter(tmp_path, 20, 100, 10, 8)
    report.train(30, {"loss": 2.0, "lr": 0.1})
    report.close()
    entries = reporting.read_metrics(tmp_path)
    assert [entry["step"] for entry in entries] == [10, 20, 30]
    assert entries[-1]["loss"] == 2.0
    assert "step 30/100  epoch 3.00  loss 2.0000" in capsys.readouterr().out

"""Tests runs on small data sets: the options that recipes adapt, fine-tuning, and the log."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import inception_jax as ij
from tests.helpers import networks
from tests.helpers.written_images import write_folder
from train.config import fields
from train.hosts.preemption import Preemption
from train.report import reporter
from train.run import scaling
from train.run.command_line import parse

pytestmark = pytest.mark.filterwarnings("default")
TINY = ["--arch", "tiny", "--dataset", "folder", "--data-dir", "d", "--no-tensorboard"]


def folder(root: Path, count: int, classes: int = 2) -> Path:
    return write_folder(root, {"train": {f"c{i}": count for i in range(classes)},
                               "val": {f"c{i}": 3 for i in range(classes)}})  # fmt: skip


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(workdir / "weights.safetensors")


# ---- Options that a recipe adapts to few images ----


@pytest.mark.parametrize(
    ("most", "images", "size"),
    [
        (64, 120, 24),
        (32, 96, 24),
        (32, 5, 4),
        (64, 300, 48),
        (32, 9, 8),
        (64, 5000, 64),
        (32, 8, 8),
    ],
)
def test_a_batch_that_leaves_few_images_over(most, images, size):
    assert scaling.fitting_batch(most, images) == size


def test_every_count_has_a_batch():
    for images in range(1, 3000):
        size = scaling.fitting_batch(64, images)
        assert 1 <= size <= min(64, images)
        assert size in (1, 2, 4) or size % 8 == 0
        assert images < 100 or images % size <= 0.05 * images or size == 8


def test_the_demo_for_few_images(with_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "d", 60)
    config, dataset = parse(TINY)
    options = fields.flat(config)
    steps = options["epochs"] * (120 // options["batch_size"])
    assert options["batch_size"] == 24
    assert 300 < steps < 600
    assert options["lr_decay_epochs"] / options["epochs"] == pytest.approx(1 / 12, rel=0.01)
    # The average covers a twentieth of the run, as with many images.
    assert 1 / (1 - options["ema_decay"]) < steps / 15
    assert options["learning_rate"] == pytest.approx(0.001 * (24 / 32) ** 0.5, rel=1e-2)
    assert "for 120 training images the recipe demo takes --batch-size 24 instead of 32" in (
        dataset.note
    )
    assert options["scaled"]["ema_decay"] == options["ema_decay"]

    config, dataset = parse([*TINY, "--batch-size=16", "--ema-decay", "0.5", "--epochs", "3"])
    options = fields.flat(config)
    assert (options["batch_size"], options["ema_decay"], options["epochs"]) == (16, 0.5, 3)
    assert not {"batch_size", "ema_decay", "epochs"} & options["scaled"].keys()
    assert "ema" not in dataset.note


def test_enough_images_and_other_recipes_stay(with_tiny, tmp_path, monkeypatch):
    assert not parse(["--arch", "xception"])[0].run.scaled
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "d", 20)
    assert not parse([*TINY, "--recipe", "inception_v3"])[0].run.scaled


def test_a_run_keeps_what_it_started_with(with_tiny, tmp_path, monkeypatch):
    """A run keeps its adapted options when it resumes with more images.

    A run of an earlier version, which adapted no options, keeps the options of its recipe.
    """
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "d", 20)
    config, _ = parse([*TINY, "--workdir", "w"])
    (tmp_path / "w/checkpoints/5").mkdir(parents=True)
    stored = fields.as_json(config)
    (tmp_path / "w/config.json").write_text(json.dumps(stored))
    folder(tmp_path / "e", 40)
    again, _ = parse([*TINY, "--data-dir", "e", "--workdir", "w"])
    assert again.batch == config.batch
    assert again.step == config.step
    assert again.optimizer == config.optimizer
    assert parse([*TINY, "--data-dir", "e"])[0].batch != config.batch
    del stored["scaled"]
    (tmp_path / "w/config.json").write_text(json.dumps(stored))
    assert parse([*TINY, "--workdir", "w"])[0].batch.batch_size == 32


@pytest.mark.parametrize("images", [50, 500, 5000, 50_000])
def test_fine_tuning_has_a_sane_length(images):
    base = dict(batch_size=32, learning_rate=1e-3, head_learning_rate=1e-2)
    unset = dict(steps=None, freeze_backbone=False, epochs=0, head_epochs=0, warmup_epochs=0)
    options = dict(base, eval_every=0, **unset)
    found = scaling.scaled("finetune", base, options, set(), images)
    steps = found["epochs"] * (images // found.get("batch_size", 32))
    assert 150 < steps < 5000
    assert 0 < found["head_epochs"] < found["epochs"] / 2


# ---- Fine-tuning ----


@pytest.fixture
def start(with_tiny, tmp_path):
    """Writes a folder of images of two classes, and the weights of a network for seven classes.

    Returns the network.
    """
    model = ij.create_model("tiny", num_classes=7, width_multiplier=0.5)
    networks.fill(model)
    ij.save_weights(model, tmp_path / "start.safetensors")
    folder(tmp_path / "d", 12)
    return model


FINETUNE = ["--recipe", "finetune", "--init-from", "start.safetensors", *TINY[2:],
            "--batch-size", "8", "--log-every", "1"]  # fmt: skip


def test_evaluating_a_fine_tuning_is_of_its_checkpoint(start, train_here, tmp_path):
    """With `--eval-only`, a fine-tuning command evaluates its checkpoint, not the initial file."""
    options = [*FINETUNE, "--steps", "2"]
    code, _, err = train_here(*options)
    assert code == 0, err
    assert (tmp_path / "runs/tiny-d-finetune/checkpoints/2").exists()
    code, out, err = train_here(*options, "--eval-only")
    assert code == 0, err
    assert "evaluated the checkpoint of step 2" in out


def test_the_classifier_alone_leaves_the_backbone_bit_equal(start, train_here, tmp_path):
    """During `--head-epochs`, the backbone's averaged weights and statistics do not change.

    The name and the width of the network come from the weight file.
    """
    options = [*FINETUNE, "--steps", "6", "--weight-decay", "0.5", "--ema-decay", "0.9"]
    code, out, err = train_here(*options, "--head-epochs", "2", "--workdir", "head")
    assert code == 0, err
    assert "training the classifier alone until step 6" in out
    before, after = ij.to_torch(start), weights(tmp_path / "head")
    assert after["fc.weight"].shape == (2, 16)
    for name, tensor in after.items():
        if not name.startswith("fc."):
            np.testing.assert_array_equal(tensor, before[name], name)
    code, out, err = train_here(*options, "--head-epochs", "1", "--workdir", "all")
    assert code == 0, err
    assert "training all parameters from step 3 on" in out
    after = weights(tmp_path / "all")
    for name in ("conv1.conv.weight", "conv2.bn.weight", "conv1.bn.running_mean"):
        assert np.abs(after[name] - before[name]).max() > 0, name
    rates = [e["lr"] for e in reporter.read_metrics(tmp_path / "all") if e["kind"] == "train"]
    assert rates[0] > 3 * max(rates[3:])  # the whole network learns more slowly


@pytest.mark.parametrize(
    ("stop", "step"),
    [
        pytest.param(2, 2, marks=pytest.mark.slow),
        (3, 3),
        pytest.param(5, 4, marks=pytest.mark.slow),  # an evaluation asks too
    ],
)
def test_it_resumes_bit_equal_in_either_phase(start, train_here, tmp_path, monkeypatch, stop, step):
    options = [*FINETUNE, "--steps", "6", "--head-epochs", "1"]
    assert train_here(*options, "--workdir", "straight")[0] == 0
    with monkeypatch.context() as patch:
        calls = iter(range(1, 100))
        patch.setattr(Preemption, "__call__", lambda _: next(calls) >= stop)
        assert train_here(*options, "--workdir", "w")[0] == 42
    code, out, err = train_here(*options, "--workdir", "w")
    assert code == 0, err
    assert f"resuming at step {step}" in out
    a, b = weights(tmp_path / "straight"), weights(tmp_path / "w")
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_fine_tuning_needs_weights_that_fit(start, train_here, tmp_path):
    code, _, err = train_here("--arch", "tiny", "--recipe", "finetune")
    assert (code, err.count("\n")) == (2, 1)
    assert "--init-from" in err
    code, _, err = train_here("--recipe", "finetune", "--init-from", "start.safetensors")
    assert code == 2
    assert "3 channel(s), the data set has 1" in err
    code, _, err = train_here(*FINETUNE, "--init-from", ".")
    assert code == 2
    assert "weights.safetensors" in err


# ---- The log ----


class Clock:
    """Replaces `time.monotonic` with a clock that advances only when `passes` is called."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def passes(self, seconds: float) -> None:
        self.now += seconds


def test_the_log_counts_every_second_once(tmp_path, monkeypatch, capsys):
    """The logged speed excludes compiling, evaluations and plotting.

    The logged remaining time includes future evaluations and plotting.
    """
    clock = Clock(monkeypatch)
    options = reporter.ReportOptions(tensorboard=False)
    report = reporter.Reporter(options, tmp_path, 0, 100, 5, batch_size=8, configuration={})
    with report.away(once=True):
        clock.passes(60)  # compiles
    for _ in range(10):
        with report.waiting():
            clock.passes(0.1)
        clock.passes(0.3)
    with report.away():
        clock.passes(2)
        with report.away():  # draws
            clock.passes(3)
        clock.passes(1)
    report.train(10, {"loss": 2.0, "lr": 0.1})
    entry = reporter.read_metrics(tmp_path)[-1]
    assert entry["images_per_s"] == pytest.approx(20)
    assert entry["data_wait"] == pytest.approx(0.25)
    # 90 steps of 0.4 s, and nine times six seconds.
    assert "20 images/s  waiting for data 25%  ETA 1:30" in capsys.readouterr().out
    clock.passes(5)
    report.train(20, {"loss": 2.0, "lr": 0.1})
    assert reporter.read_metrics(tmp_path)[-1]["images_per_s"] == pytest.approx(16)


def test_the_speed_of_a_small_folder_is_possible(start, train_here, tmp_path):
    """At the logged images per second, the steps take less time than the whole run."""
    started = time.monotonic()
    code, _, err = train_here(*TINY, "--steps", "12", "--batch-size", "8", "--log-every", "4")
    seconds = time.monotonic() - started
    assert code == 0, err
    entries = reporter.read_metrics(tmp_path / "runs/tiny-d")
    rates = [entry["images_per_s"] for entry in entries if entry["kind"] == "train"]
    assert len(rates) == 3
    assert sum(32 / rate for rate in rates) < seconds
    assert max(rates) < 1e6

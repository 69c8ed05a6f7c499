"""Tests `python train/main.py` as a user runs it, with all its parts together.

Some tests start the programme in a separate process. The others run it in this process, with a
network of three layers.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import inception_jax as ij
from tests.helpers import networks
from train.data.open_dataset import open_dataset

ROOT = Path(__file__).parents[2]
TINY = ["--arch", "tiny"]
SHORT = ["--batch-size", "10", "--log-every", "2", "--no-tensorboard"]

# Warnings go to standard error, as for a user. Without this line, they would be errors.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Returns the environment variables of this module's processes.

    The processes import from this checkout, and share a compilation cache.
    """
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    }


@pytest.fixture
def start(environment, tmp_path):
    """Returns a function that starts the programme in a separate process, in `tmp_path`.

    The function takes the options of the command line, and returns the `subprocess.Popen`.
    """

    def start(*options: str, program: tuple[str, ...] = (str(ROOT / "train/main.py"),)):
        return subprocess.Popen(
            [sys.executable, *program, *options],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


@pytest.fixture
def start_tiny(start):
    """Returns a function that starts a run of the network of `helpers/tiny.py` in `tmp_path`.

    The function takes further options of the command line, and returns the `subprocess.Popen` of
    the separate process.
    """
    return lambda *options: start(*TINY, *options, program=("-m", "tests.helpers.tiny"))


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    """Waits for a process to end; returns its exit code, standard output and standard error."""
    try:
        out, err = process.communicate(timeout=1800)
    finally:
        process.kill()  # no effect if it has ended
    return process.returncode, out, err


def until(process: subprocess.Popen, words: str) -> None:
    """Reads the output of a process up to and including the first line that contains `words`.

    Raises:
        AssertionError: if the output ends without such a line; the message is stderr.
    """
    while words not in (line := process.stdout.readline()):
        assert line, process.stderr.read()


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(workdir / "weights.safetensors")


def logged_steps(workdir: Path) -> list[int]:
    entries = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in entries if '"train"' in line]


# ---- In a separate process ----


def test_a_run_from_start_to_end(start_tiny, with_tiny, tmp_path):
    arch, width = "tiny", 0.5
    options = ["--width-multiplier", str(width), *SHORT, "--tensorboard"]
    code, out, err = end(start_tiny(*options, "--steps", "4", "--workdir", "w"))
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert {"arch": arch, "dataset": "fashion_mnist", "step": 4}.items() <= result.items()
    assert result["eval_examples"] == 1000
    assert result["epoch"] == pytest.approx(4 / 600, abs=1e-4)
    assert 0 <= result["eval_top1"] <= result["eval_top5"] <= 1
    assert np.isfinite(result["train_loss"])
    lines = [line for line in out.splitlines() if line.startswith("step ")]
    assert len(lines) == 2
    for word in ("epoch", "loss", "lr", "images/s", "waiting for data", "ETA"):
        assert word in lines[0]

    names = {path.name for path in (tmp_path / "w").iterdir()}
    assert {"config.json", "metrics.jsonl", "curves.svg", "predictions.png", "confusion.png",
            "classes.csv", "checkpoints", "tensorboard",
            "weights.safetensors"} <= names  # fmt: skip
    classes = list(csv.DictReader((tmp_path / "w/classes.csv").read_text().splitlines()))
    assert [int(row["images"]) for row in classes] == [100] * 10
    hits = np.mean([float(row["top1"]) for row in classes])
    assert hits == pytest.approx(result["eval_top1"], abs=1e-3)
    assert json.loads((tmp_path / "w/config.json").read_text())["width_multiplier"] == width
    assert (tmp_path / "w/curves.svg").read_text().startswith("<?xml")
    assert (tmp_path / "w/predictions.png").read_bytes().startswith(b"\x89PNG")
    file = tmp_path / "w/weights.safetensors"
    options = dict(num_classes=10, in_channels=1, width_multiplier=width)
    model = ij.create_model(arch, weights=file, **options)
    for name, tensor in ij.to_torch(model).items():
        np.testing.assert_array_equal(tensor, weights(tmp_path / "w")[name], name)


def test_an_unknown_option(start):
    code, out, err = end(start("--arhc", "xception"))
    assert (code, out) == (2, "")
    assert "--arhc" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_stopped_and_killed_it_resumes_and_ends_bit_equal(start_tiny, tmp_path):
    """A run that got SIGTERM and SIGKILL ends with the weights of an uninterrupted run.

    SIGTERM saves, with a message and exit code 42. SIGKILL loses the steps after the last
    checkpoint.
    """
    options = [*SHORT, "--checkpoint-every", "4"]
    process = start_tiny(*options, "--steps", "5000", "--workdir", "w")
    until(process, "step 2/5000")
    process.send_signal(signal.SIGTERM)
    code, _, err = end(process)
    assert code == 42, err
    saved = int(err.split("saved at step ")[1].split(";")[0])
    assert saved < 5000

    last = saved + 60
    process = start_tiny(*options, "--steps", str(last), "--workdir", "w")
    until(process, f"resuming at step {saved},")
    until(process, f"step {saved + saved % 2 + 2 * np.random.default_rng().integers(1, 5)}/{last}")
    process.kill()
    assert end(process)[0] == -signal.SIGKILL
    assert not (tmp_path / "w/result.json").exists()

    code, out, err = end(start_tiny(*options, "--steps", str(last), "--workdir", "w"))
    assert code == 0, err
    resumed = int(out.split("resuming at step ")[1].split(",")[0])
    assert saved <= resumed < last
    assert resumed == saved or resumed % 4 == 0

    code, _, err = end(start_tiny(*SHORT, "--steps", str(last), "--workdir", "straight"))
    assert code == 0, err
    a, b = weights(tmp_path / "straight"), weights(tmp_path / "w")
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert logged_steps(tmp_path / "w") == sorted({*range(2, last + 1, 2), last})


# ---- In this process ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arch", "xcepton"], ["xcepton", "xception"]),
        (["--arch", "xception.tf_in21k"], ["tf_in1k"]),
        (["--arch", "xception", "--image-size", "64"], ["64", "71"]),
        ([*TINY, "--workdir", "/proc/nowhere"], ["/proc/nowhere"]),
        ([*TINY, "--batch-size", "7000"], ["7000", "6000"]),
        ([*TINY, "--init-from", "absent.pth"], ["absent.pth"]),
        ([*TINY, "--eval-only"], ["--eval-only", "runs/tiny-fashion_mnist"]),
    ],
)
def test_errors_are_one_line(train_here, options, words):
    code, out, err = train_here(*options)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert all(word in err for word in words)


def test_a_finished_run_again(train_here, tmp_path):
    options = [*TINY, *SHORT, "--steps", "4", "--workdir", "w"]
    code, out, err = train_here(*options)
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])

    code, again, err = train_here(*options)
    assert code == 0, err
    assert "finished" in again
    assert json.loads(again.splitlines()[-1]) == result

    code, out, err = train_here(*options, "--eval-only")
    assert json.loads(out.splitlines()[-1])["eval_top1"] == result["eval_top1"]

    # As after a kill between the last checkpoint and the result.
    (tmp_path / "w/result.json").unlink()
    code, again, err = train_here(*options)
    assert code == 0, err
    assert json.loads(again.splitlines()[-1]) == result

    code, out, err = train_here(*options, "--seed", "5")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "seed 0, now 5" in err


def test_a_damaged_checkpoint_falls_back_to_the_one_before(train_here, tmp_path):
    options = [*TINY, *SHORT, "--checkpoint-every", "2", "--workdir", "w"]
    assert train_here(*options, "--steps", "4")[0] == 0
    newest = tmp_path / "w/checkpoints/4"
    largest = max(newest.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    (tmp_path / "w/result.json").unlink()
    code, out, err = train_here(*options, "--steps", "6")
    assert code == 0, err
    assert "the checkpoint of step 4 is damaged" in err
    assert "resuming at step 2" in out


def photographs(folder: Path, count: int = 12) -> None:
    """Writes an image folder of two classes, with some files that cannot be decoded."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, colour in (("red", 0), ("blue", 2)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (40, 60, 3), np.uint8)
                pixels[..., colour] += 100
                Image.fromarray(pixels).save(folder / split / name / f"{i}.jpg", quality=90)
    train = folder / "train/red"
    (train / "empty.jpg").write_bytes(b"")
    (train / "cut.jpg").write_bytes((train / "0.jpg").read_bytes()[:400])
    (train / "notes.jpg").write_text("not an image")
    Image.fromarray(pixels).convert("CMYK").save(folder / "val/red/cmyk.jpg")
    Image.fromarray(pixels[..., 0]).save(train / "grey.png")
    (folder / "val/blue/empty.jpg").write_bytes(b"")


def test_a_folder_of_photographs_with_hostile_files(train_here, tmp_path):
    photographs(tmp_path / "d")
    options = [*TINY, "--dataset", "folder", "--data-dir", "d", "--batch-size", "8",
               "--grad-accum", "2", "--log-every", "2", "--workdir", "w"]  # fmt: skip
    code, out, err = train_here(
        *options, "--steps", "8", "--distort", "inception", "--profile-steps=3:5"
    )
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["eval_examples"] == 25
    assert result["eval_left_out"] == 1
    for name in ("red/empty.jpg", "red/cut.jpg", "red/notes.jpg", "blue/empty.jpg"):
        assert sum("skipped " in line and name in line for line in err.splitlines()) == 1
    assert "note: val/red/cmyk.jpg: CMYK" in err
    assert list((tmp_path / "w/profile").rglob("*.xplane.pb"))
    assert np.isfinite(result["eval_loss"])  # eight steps teach nothing

    limit = ["--max-bad-images", "1", "--workdir", "v"]
    code, out, err = train_here(*options[:-2], "--steps", "8", *limit)
    assert code == 1
    assert "--max-bad-images 1" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_dry_run_leaves_nothing(train_here, tmp_path):
    code, out, err = train_here(*TINY, *SHORT, "--recipe", "inception_v3_tpu",
                                "--image-size", "16", "--epochs", "20", "--dry-run")  # fmt: skip
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["steps"] == 20 * 600
    # Kernels and normalisations of 1 -> 16 -> 32 channels, and a classifier of 32 into 10.
    assert summary["parameters"] == 9 * 16 + 32 + 9 * 16 * 32 + 64 + 330
    products = 10 * (64 * 9 * 16 + 16 * 9 * 16 * 32 + 320)
    assert summary["flops_per_step_per_device"] > 2 * products / jax.device_count()
    assert summary["temporary_bytes_per_device"] > 0
    assert "highest rate 0.006445" in out  # 0.165 x 10 / 256
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_is_not_finite(train_here, tmp_path):
    options = [*TINY, *SHORT, "--steps", "8", "--checkpoint-every", "2"]
    code, out, err = train_here(
        *options, "--learning-rate", "1e38", "--clip-norm", "0", "--workdir", "w"
    )
    assert code == 1
    assert err.count("\n") == 1
    assert "not finite" in err
    assert "at step" in err
    assert not (tmp_path / "w/result.json").exists()
    assert not out.rstrip().endswith("}")


def test_steps_that_are_not_finite_may_be_skipped_for_a_while(train_here):
    options = [*TINY, *SHORT, "--steps", "200", "--clip-norm", "0", "--workdir", "w"]
    code, _, err = train_here(*options, "--learning-rate", "1e38", "--on-nan", "skip")
    assert code == 1
    assert "steps before step" in err
    assert "were skipped" in err
    assert "Traceback" not in err


def test_start_from_weights_with_other_classes(train_here, tmp_path):
    model = ij.create_model("tiny", num_classes=3, in_channels=1)
    networks.fill(model)
    ij.save_weights(model, tmp_path / "start.safetensors")
    options = [*TINY, *SHORT, "--steps", "2", "--workdir", "w", "--init-from", "start.safetensors"]
    code, out, err = train_here(*options, "--freeze-backbone")
    assert code == 0, err
    assert "starts from random values" in out
    start, after = ij.to_torch(model), weights(tmp_path / "w")
    for name, tensor in after.items():
        if not name.startswith("fc."):
            np.testing.assert_array_equal(tensor, start[name], name)
    assert after["fc.weight"].shape[0] == 10
    assert after["fc.bias"].any()  # the bias starts at zero
    wide = ij.create_model("tiny", num_classes=10, in_channels=1, width_multiplier=2)
    ij.save_weights(wide, tmp_path / "wide.safetensors")
    options = [*TINY, *SHORT, "--steps", "2", "--init-from", "wide.safetensors", "--workdir", "v"]
    code, _, err = train_here(*options, "--width-multiplier", "1")  # instead of the file's
    assert code == 2
    assert "misshapen: conv1.bn.bias (32,) instead of (16,)" in err
    assert "Traceback" not in err


# ---- The README's main example ----


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["xception", "inception_v3"])
def test_the_demo_learns(start, environment, monkeypatch, tmp_path, arch):
    """The demo reaches a top-1 accuracy above 85 %; bfloat16 and float32 logits nearly agree."""
    monkeypatch.delitem(environment, "JAX_DISABLE_MOST_OPTIMIZATIONS")
    monkeypatch.setitem(environment, "XLA_FLAGS", "")
    started = time.monotonic()
    code, out, err = end(start("--arch", arch, "--workdir", "w"))
    print(f"{arch}: {time.monotonic() - started:.0f} s")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["eval_top1"] > 0.85

    narrow, wide = (
        trained_logits(arch, tmp_path / "w", dtype) for dtype in ("bfloat16", "float32")
    )
    assert np.linalg.norm(narrow - wide) <= 0.02 * np.linalg.norm(wide)


def trained_logits(arch: str, workdir: Path, dtype: str) -> np.ndarray:
    """Returns a demo run's logits of a hundred test images, computed in `dtype`."""
    stored = json.loads((workdir / "config.json").read_text())
    network = ij.create_model(
        arch,
        weights=workdir / "weights.safetensors",
        num_classes=10,
        in_channels=1,
        width_multiplier=stored["width_multiplier"],
        dtype=dtype,
    )
    images = (
        np.stack([open_dataset("fashion_mnist").test[i].image for i in range(100)]).astype(
            np.float32
        )
        / 127.5
        - 1
    )
    side = stored["image_size"]
    images = np.asarray(jax.image.resize(images, (100, side, side, 1), "bilinear"))
    logits, _ = networks.run(network, lambda m, x: m(x), images)
    return np.asarray(logits, np.float32)

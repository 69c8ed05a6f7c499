"""`python train/main.py`, as a user runs it, in a process of its own."""

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
SMALL = ["--width-multiplier", "0.05", "--batch-size", "10", "--log-every", "2", "--no-tensorboard"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One device, little optimisation, and a cache of programs that the module's runs share."""
    return {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    }


@pytest.fixture
def start(environment, tmp_path):
    """Starts the programme in an empty folder."""

    def start(*options: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "train/main.py"), *options]
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


@pytest.fixture
def run(start):
    """Runs the programme to its end; returns exit code, standard output and error."""

    def run(*options: str) -> tuple[int, str, str]:
        process = start(*options)
        try:
            out, err = process.communicate(timeout=1800)
        finally:
            process.kill()  # which a process that has ended does not mind
        return process.returncode, out, err

    return run


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(workdir / "weights.safetensors")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--arch", "xcepton"], 2, ["xcepton", "xception"]),
        (["--arch", "xception.tf_in21k"], 2, ["tf_in1k"]),
        (["--image-size", "64"], 2, ["64", "71"]),
        (["--workdir", "/proc/nowhere"], 2, ["/proc/nowhere"]),
        (["--batch-size", "7000"], 2, ["7000", "6000"]),
        (["--init-from", "absent.pth"], 2, ["absent.pth"]),
        (["--eval-only", *SMALL], 2, ["--eval-only", "runs/xception"]),
    ],
)
def test_errors_are_one_line(run, options, code, words):
    got, out, err = run(*options)
    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert all(word in err for word in words)


def test_unknown_option(run):
    code, out, err = run("--arhc", "xception")
    assert (code, out) == (2, "")
    assert "--arhc" in err
    assert "Traceback" not in err


def test_a_run_from_start_to_end_and_again(run, tmp_path):
    options = [*SMALL, "--steps", "4", "--workdir", "w", "--tensorboard"]
    code, out, err = run("--arch", "xception", *options)
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert {"arch": "xception", "dataset": "fashion_mnist", "step": 4}.items() <= result.items()
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
    assert json.loads((tmp_path / "w/config.json").read_text())["width_multiplier"] == 0.05
    assert (tmp_path / "w/curves.svg").read_text().startswith("<?xml")
    assert (tmp_path / "w/predictions.png").read_bytes().startswith(b"\x89PNG")
    model = ij.create_model(
        "xception",
        weights=tmp_path / "w/weights.safetensors",
        num_classes=10,
        in_channels=1,
        width_multiplier=0.05,
    )
    assert model(np.zeros((1, 71, 71, 1), np.float32)).shape == (1, 10)

    code, again, err = run("--arch", "xception", *options)
    assert code == 0, err
    assert "finished" in again
    assert json.loads(again.splitlines()[-1]) == result

    code, out, err = run("--arch", "xception", *options, "--eval-only")
    assert json.loads(out.splitlines()[-1])["eval_top1"] == result["eval_top1"]

    # As after a kill between the last checkpoint and the result.
    (tmp_path / "w/result.json").unlink()
    code, again, err = run("--arch", "xception", *options)
    assert code == 0, err
    assert json.loads(again.splitlines()[-1]) == result

    code, out, err = run("--arch", "xception", *options, "--seed", "5")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "seed 0, now 5" in err


def test_kill_and_resume_ends_bit_equal(start, run, tmp_path):
    options = ["--arch", "xception", *SMALL, "--steps", "12", "--checkpoint-every", "4"]
    assert run(*options, "--workdir", "straight")[0] == 0

    process = start(*options, "--workdir", "killed")
    seen, last = "", np.random.default_rng().integers(2, 6) * 2
    while f"step {last}/12" not in seen:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        seen += line
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/result.json").exists()

    code, out, _ = run(*options, "--workdir", "killed")
    assert code == 0
    resumed = int(out.split("resuming at step ")[1].split(",")[0]) if "resuming" in out else 0
    assert resumed in (0, 4, 8)
    assert resumed <= last + 2
    a, b = weights(tmp_path / "straight"), weights(tmp_path / "killed")
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    entries = (tmp_path / "killed/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in entries if '"train"' in line]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(run, tmp_path):
    options = ["--arch", "xception", *SMALL, "--checkpoint-every", "2", "--workdir", "w"]
    assert run(*options, "--steps", "4")[0] == 0
    newest = tmp_path / "w/checkpoints/4"
    largest = max(newest.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    (tmp_path / "w/result.json").unlink()
    code, out, err = run(*options, "--steps", "6")
    assert code == 0, err
    assert "the checkpoint of step 4 cannot be read" in err
    assert "resuming at step 2" in out


def photographs(folder: Path, count: int = 12) -> None:
    """An image folder of two classes, with files in it that no decoder takes."""
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


def test_a_folder_of_photographs_with_hostile_files(run, tmp_path):
    photographs(tmp_path / "d")
    options = ["--dataset", "folder", "--data-dir", "d", "--width-multiplier", "0.05",
               "--batch-size", "8", "--grad-accum", "2", "--log-every", "2",
               "--workdir", "w"]  # fmt: skip
    code, out, err = run(*options, "--steps", "8", "--distort", "inception", "--profile-steps=3:5")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["eval_examples"] == 25
    assert result["eval_left_out"] == 1
    for name in ("red/empty.jpg", "red/cut.jpg", "red/notes.jpg", "blue/empty.jpg"):
        assert sum("skipped " in line and name in line for line in err.splitlines()) == 1
    assert "converted val/red/cmyk.jpg from CMYK" in err
    assert list((tmp_path / "w/profile").rglob("*.xplane.pb"))
    assert np.isfinite(result["eval_loss"])  # eight steps teach nothing

    limit = ["--max-bad-images", "1", "--workdir", "v"]
    code, out, err = run(*options[:-2], "--steps", "8", *limit)
    assert code == 1
    assert "--max-bad-images 1" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_dry_run_leaves_nothing(run, tmp_path):
    code, out, err = run("--arch", "xception", *SMALL, "--recipe", "inception_v3_tpu",
                         "--image-size", "71", "--epochs", "20", "--dry-run")  # fmt: skip
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["steps"] == 20 * 600
    assert summary["parameters"] > 50_000
    assert summary["flops_per_step_per_device"] > 1e8
    assert summary["temporary_bytes_per_device"] > 0
    assert "highest rate 0.006445" in out  # 0.165 x 10 / 256
    assert not (tmp_path / "runs").exists()


def test_sigterm_saves_and_says_so(start, run, tmp_path):
    options = ["--arch", "xception", *SMALL, "--steps", "500", "--workdir", "w"]
    process = start(*options)
    while "step 2/500" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 42, err
    saved = int(err.split("saved at step ")[1].split(";")[0])
    assert saved < 500
    code, out, _ = run(*options[:-4], "--steps", str(saved + 1), "--workdir", "w")
    assert code == 0
    assert f"resuming at step {saved}," in out


def test_a_loss_that_is_not_finite(run, tmp_path):
    options = ["--arch", "xception", *SMALL, "--steps", "8", "--checkpoint-every", "2"]
    code, out, err = run(*options, "--learning-rate", "1e38", "--clip-norm", "0", "--workdir", "w")
    assert code == 1
    assert err.count("\n") == 1
    assert "not finite" in err
    assert "at step" in err
    assert not (tmp_path / "w/result.json").exists()
    assert not out.rstrip().endswith("}")


def test_steps_that_are_not_finite_may_be_skipped_for_a_while(run, tmp_path):
    options = ["--arch", "xception", *SMALL, "--steps", "200", "--clip-norm", "0", "--workdir", "w"]
    code, _, err = run(*options, "--learning-rate", "1e30", "--on-nan", "skip")
    assert code == 1
    assert "steps before step" in err
    assert "were skipped" in err
    assert "Traceback" not in err


def test_start_from_weights_with_other_classes(run, tmp_path):
    model = ij.create_model("xception", num_classes=3, in_channels=1, width_multiplier=0.05)
    networks.randomise(model, "float32")
    ij.save_weights(model, tmp_path / "start.safetensors")
    options = [*SMALL, "--steps", "2", "--workdir", "w", "--init-from", "start.safetensors"]
    code, out, err = run("--arch", "xception", *options, "--freeze-backbone")
    assert code == 0, err
    assert "starts anew" in out
    start, after = ij.to_torch(model), weights(tmp_path / "w")
    for name, tensor in after.items():
        if not name.startswith("fc."):
            np.testing.assert_array_equal(tensor, start[name], name)
    assert after["fc.weight"].shape[0] == 10
    assert after["fc.bias"].any()  # which starts at zero
    wide = ij.create_model("xception", num_classes=10, in_channels=1, width_multiplier=0.1)
    ij.save_weights(wide, tmp_path / "wide.safetensors")
    code, _, err = run(
        "--arch", "xception", *SMALL, "--init-from", "wide.safetensors", "--workdir", "v"
    )
    assert code == 2
    assert "misshapen: block10.sepconv1.bn.bias (72,) instead of (36,)" in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["xception", "inception_v3"])
def test_the_demo_learns(run, environment, monkeypatch, tmp_path, arch):
    """The README's main job, whole: above 85 % of the test images, in bfloat16 too."""
    monkeypatch.delitem(environment, "JAX_DISABLE_MOST_OPTIMIZATIONS")
    started = time.monotonic()
    code, out, err = run("--arch", arch, "--workdir", "w")
    print(f"{arch}: {time.monotonic() - started:.0f} s")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["eval_top1"] > 0.85

    narrow, wide = (
        trained_logits(arch, tmp_path / "w", dtype) for dtype in ("bfloat16", "float32")
    )
    assert np.linalg.norm(narrow - wide) <= 0.02 * np.linalg.norm(wide)


def trained_logits(arch: str, workdir: Path, dtype: str) -> np.ndarray:
    """Logits of a hundred test images from the weights that a demo run left."""
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

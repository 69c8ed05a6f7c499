"""Tests `--eval-only --init-from FILE`, which evaluates a weight file on a folder of images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inception_jax as ij
from inception_jax import classes
from tests.helpers import networks
from tests.helpers.written_images import write_folder
from train.data.datasets import Dataset
from train.data.relabelled import relabelled
from train.errors import UsageError

pytestmark = pytest.mark.filterwarnings("default")

TENCH, GOLDFISH, CRANE = "n01440764", "n01443537", "crane"


def write_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 256, 3)
    noise = rng.normal(0, 60, (*rng.integers(17, 60, 2), 3))
    Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def published(with_tiny, tmp_path):
    """Writes a PyTorch state dict without metadata to published.pth; returns its network."""
    model = ij.create_model("tiny")
    networks.fill(model)
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(array.copy()) for name, array in ij.to_torch(model).items()}
    torch.save(state, tmp_path / "published.pth")
    return model


def evaluate(train_here, *options: str) -> tuple[int, str, str]:
    return train_here("--arch", "tiny", "--eval-only", "--init-from", "published.pth",
                      "--dataset", "folder", "--data-dir", "d", *options)  # fmt: skip


def test_a_published_file_on_some_of_its_classes(train_here, published, tmp_path):
    """The top-1 accuracy is the share of photos whose folder is the class that `classify` predicts.

    The photos have only some of the classes of the weight file.
    """
    keys = [key for key, _ in classes._imagenet_lines()]
    right = 0
    for i in range(12):
        write_photo(tmp_path / "x.png", i)
        ((best, _),) = ij.classify(published, tmp_path / "x.png", top=1)[0:1][0]
        index = classes.imagenet().index(best)
        folder = [keys[index], best.replace("/", " ")][i % 2] if i < 6 else "great_white_shark"
        right += i < 6 or "great white shark" in best
        write_photo(tmp_path / "d" / folder / f"{i}.png", i)
    (tmp_path / "d/README.md").write_text("")
    code, out, err = evaluate(train_here)
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert (result["eval_examples"], result["passed_over"]) == (12, 1)
    assert result["eval_top1"] == pytest.approx(right / 12)
    assert result["protocol"]["input_size"] == 16
    assert "accuracy is among all 1000 classes" in out
    assert "no folder val" in out
    assert "1 of 13 files are skipped: 1 .md" in out
    assert not (tmp_path / "runs").exists()  # nothing is written


def test_a_list_of_exclusions(train_here, published, tmp_path):
    """`--eval-exclude` leaves out the listed images, and fails if none of them is a test image."""
    for i in range(3):
        write_photo(tmp_path / "d" / TENCH / f"{i}.png", i)
    (tmp_path / "list").write_text("elsewhere/other.JPEG\n")
    code, _, err = evaluate(train_here, "--eval-exclude", "list")
    assert code == 1
    assert "none of the 1 names in --eval-exclude list, such as other, is a test image's" in err
    (tmp_path / "list").write_text("elsewhere/other.JPEG\nval/1.JPEG\n")
    code, out, err = evaluate(train_here, "--eval-exclude", "list")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert (result["eval_examples"], result["eval_left_out"]) == (2, 1)


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ([TENCH, "my cat"], ["1 of the 2 classes, such as 'my cat'", "WordNet", "--eval-only"]),
        ([TENCH, CRANE], ["'crane' may mean 2 classes"]),
    ],
)
def test_other_classes_are_refused(train_here, published, tmp_path, folders, words):
    write_folder(tmp_path / "d", {"val": dict.fromkeys(folders, 1)})
    code, _, err = evaluate(train_here)
    assert code == 2
    assert all(word in err for word in words)
    assert err.count("\n") == 1


def labels_of(own: tuple[str, ...], names: tuple[str, ...] | None, outputs: int) -> list[int]:
    source = [("image", i, "name") for i in range(len(own))]
    data, _ = relabelled(Dataset("x", source, source, own, 3), names, outputs)
    return [data.test[i][1] if data.test is source else _label(data.test, i)
            for i in range(len(own))]  # fmt: skip


def _label(source, index):
    return source.labels[source.source[index][1]]


def test_how_classes_are_matched():
    imagenet = classes.imagenet()
    assert labels_of(("Tinca_tinca", GOLDFISH), imagenet, 1000) == [0, 1]
    assert labels_of(("0", "10", "2"), imagenet, 1000) == [0, 10, 2]
    assert labels_of(("b", "a"), ("a", "b", "c"), 3) == [1, 0]
    assert labels_of(("1", "0"), ("0", "1"), 2) == [1, 0]
    assert labels_of(("cat",), ("Cat", "cat"), 2) == [1]
    assert labels_of(("x", "y"), None, 2) == [0, 1]
    with pytest.raises(UsageError, match="3 classes without names"):
        labels_of(("x", "y"), None, 3)
    with pytest.raises(UsageError, match="such as '7'"):
        labels_of(("1", "7"), ("a", "b", "c"), 3)


def test_a_runs_own_file_gives_the_runs_result(train_here, tmp_path):
    write_folder(tmp_path / "d", {"train": {"a": 6, "b": 6}, "val": {"a": 3, "b": 4}})
    options = ["--dataset", "folder", "--data-dir", "d"]
    code, out, err = train_here("--arch", "tiny", *options, "--workdir", "w", "--batch-size", "6",
        "--steps", "3", "--image-size", "21", "--width-multiplier", "0.5",
        "--no-tensorboard")  # fmt: skip
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    file = ["--eval-only", "--init-from", "w/weights.safetensors"]
    code, out, err = train_here(*options, *file)
    assert code == 0, err
    again = json.loads(out.splitlines()[-1])
    for name in ("eval_top1", "eval_examples"):
        assert again[name] == result[name]
    assert again["eval_loss"] == pytest.approx(result["eval_loss"], rel=1e-5)
    assert (again["arch"], again["protocol"]["input_size"]) == ("tiny", 21)
    assert again["protocol"]["upright"] is True

    (tmp_path / "d/val/b").rename(tmp_path / "d/val/other")
    code, _, err = train_here(*options, *file)
    assert code == 2
    assert "'other'" in err


def test_a_file_is_evaluated_whatever_lies_in_the_usual_workdir(train_here, tmp_path):
    """`--eval-only --init-from FILE` evaluates FILE, even if the default workdir contains a run.

    It is an error if `--workdir` names a run that did not start from FILE.
    """
    write_folder(tmp_path / "d", {"": {"a": 10, "b": 10}})
    options = ["--dataset", "folder", "--data-dir", "d", "--image-size", "21"]
    train = [*options, "--arch", "tiny", "--batch-size", "8", "--steps", "2", "--no-tensorboard"]
    code, out, err = train_here(*train)
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    for file in ("runs/tiny-d", "runs/tiny-d/weights.safetensors"):
        code, out, err = train_here(*options, "--eval-only", "--init-from", file)
        assert code == 0, err
        again = json.loads(out.splitlines()[-1])
        assert (again["weights"], again["eval_top1"]) == (file, result["eval_top1"])
        assert again["eval_examples"] == result["eval_examples"] == 4
    file = ["--eval-only", "--init-from", "runs/tiny-d"]
    code, _, err = train_here(*options, *file, "--workdir", "runs/tiny-d")
    assert code == 2
    assert "did not start from --init-from runs/tiny-d: leave out" in err

"""Tests that all loaders give equal batches, with every image once, and report skipped images."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import inception_jax as ij
from tests.helpers.written_images import write_folder
from train.data import loader, pipeline
from train.data.bad_images import BadImages, Note
from train.data.datasets import ArraySource, Dataset, Example, imagenet_placeholder
from train.data.exclusions import read_exclusions
from train.data.open_dataset import open_dataset
from train.data.options import InputOptions
from train.data.pipeline import evaluation_batches, train_batches
from train.errors import TrainingError, UsageError
from train.hosts.cpus import available_cores

ROOT = Path(__file__).parents[2]
INFO = dataclasses.replace(
    ij.model_info("xception"), input_size=16, crop="crop_resize", interpolation="bilinear"
)
OPTIONS = InputOptions(image_size=16, crop="inception", max_bad_images=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    counts = {"train": {"cat": 12, "dog": 11}, "val": {"cat": 3, "dog": 4}}
    return write_folder(root, counts)


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset("folder", folder)


def pixels(count: int, split: str, labels=None) -> ArraySource:
    """Returns a source of images; every pixel of image i has the value i.

    `labels` are the labels of the images; None labels all of them 0.
    """
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((2, 3, 1), np.uint8)
    return ArraySource(images, np.zeros(count, int) if labels is None else labels, split)


def numbered(train: int, test: int, labels=None) -> Dataset:
    return Dataset("numbers", pixels(train, "train", labels), pixels(test, "test"), ("a", "b"), 1)


PLAIN = InputOptions(image_size=8, flip=False, max_bad_images=0)


def collect(batches) -> list[dict]:
    with batches:
        return list(batches)


def assert_same(batches: list[dict], others: list[dict]) -> None:
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for key in ("image", "label", "mask"):
            np.testing.assert_array_equal(batch[key], other[key])
            assert type(batch[key]) is type(other[key]) is np.ndarray
        assert batch["notes"] == other["notes"]


def test_a_large_data_set_is_decoded_by_all_processors():
    large = imagenet_placeholder()
    assert pipeline._workers(large, InputOptions()) == min(os.cpu_count() or 1, 32)
    assert pipeline._workers(large, InputOptions(workers=3)) == 3
    assert pipeline._workers(numbered(20, 1), InputOptions()) == 0


def test_worker_processes_and_starting_later_change_nothing(dataset):
    dataset = damaged(dataset, {4: Example(b"", 0, "empty")})
    options = dataclasses.replace(OPTIONS, randaugment=9.0, max_bad_images=1)
    batches = collect(train_batches(dataset, options, 0, 9, 4, seed=3))
    assert batches[0]["image"].shape == (4, 16, 16, 3)
    assert batches[0]["image"].dtype == np.uint8
    assert batches[0]["label"].dtype == np.int32
    with_workers = dataclasses.replace(options, workers=2)
    assert_same(batches[2:], collect(train_batches(dataset, with_workers, 2, 9, 4, seed=3)))
    for start in (1, 5, 6, 8):
        assert_same(batches[start:], collect(train_batches(dataset, options, start, 9, 4, seed=3)))
    assert collect(train_batches(dataset, with_workers, 9, 9, 4, seed=3)) == []
    assert {n.name for b in batches for n in b["notes"]} == {"empty"}
    other = collect(train_batches(dataset, options, 0, 1, 4, seed=4))
    assert (other[0]["image"] != batches[0]["image"]).any()


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_take_contiguous_rows_of_the_same_batches(dataset, processes):
    whole = collect(train_batches(dataset, OPTIONS, 0, 7, 6, seed=0))
    shares = [
        collect(train_batches(dataset, OPTIONS, 0, 7, 6, 0, process, processes))
        for process in range(processes)
    ]
    for key in ("image", "label"):
        for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
            np.testing.assert_array_equal(batch[key], np.concatenate([p[key] for p in parts]))


def test_an_epoch_shows_every_image_once_in_its_own_order():
    def order(epoch, seed=0):
        batches = collect(train_batches(data, PLAIN, epoch * 5, epoch * 5 + 5, 4, seed))
        return [int(i) for batch in batches for i in batch["image"][:, 0, 0, 0]]

    data = numbered(20, 1)
    assert sorted(order(0)) == sorted(order(1)) == list(range(20))
    assert len({tuple(order(e, s)) for e in range(3) for s in range(3)}) == 9
    data = numbered(23, 1)  # three are left over, different ones in every epoch
    assert len(set(order(0))) == 20
    assert set(order(0)) != set(order(1))


def test_an_image_looks_different_in_every_epoch(dataset):
    options = dataclasses.replace(OPTIONS, image_size=64)
    gray = ArraySource(np.random.default_rng(0).integers(0, 256, (1, 40, 40, 1), np.uint8), [0], "")
    data = dataclasses.replace(dataset, train=gray)
    views = {b["image"].tobytes() for b in collect(train_batches(data, options, 0, 20, 1, 0))}
    assert len(views) == 20


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("count", [1, 11, 12, 13])
def test_evaluation_shows_every_image_once(processes, count):
    data = numbered(1, count)
    parts = [
        collect(evaluation_batches(data, PLAIN, INFO, 6, process, processes))
        for process in range(processes)
    ]
    assert {len(part) for part in parts} == {-(-count // 6)}  # else a collective would wait
    batches = [batch for step in zip(*parts, strict=True) for batch in step]
    assert all(b["image"].shape == (6 // processes, 2, 3, 1) for b in batches)
    shown = np.concatenate([b["image"][b["mask"] == 1, 0, 0, 0] for b in batches])
    np.testing.assert_array_equal(shown, range(count))
    assert sum(b["mask"].sum() for b in batches) == count
    assert batches[0]["mask"].dtype == np.float32


def test_evaluation_of_encoded_images_with_workers(dataset):
    plain = collect(evaluation_batches(dataset, OPTIONS, INFO, 4))
    assert plain[0]["image"].shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(
        np.concatenate([b["label"][b["mask"] == 1] for b in plain]), [0] * 3 + [1] * 4
    )
    options = dataclasses.replace(OPTIONS, workers=1)
    assert_same(plain, collect(evaluation_batches(dataset, options, INFO, 4)))
    for crops in (12, 144):
        many = dataclasses.replace(OPTIONS, eval_crops=crops)
        batches = collect(evaluation_batches(dataset, many, INFO, 4))
        assert [b["image"].shape for b in batches] == [(4, crops, 16, 16, 3)] * 2


def damaged(dataset: Dataset, bad: dict[int, Example | None]) -> Dataset:
    """Returns a data set whose training and test examples at the indices in `bad` are replaced.

    `bad` maps an index to the new example; None keeps the old one.
    """
    return dataclasses.replace(
        dataset, train=Replaced(dataset.train, bad), test=Replaced(dataset.test, bad)
    )


class Replaced:
    def __init__(self, source, bad):
        self.source, self.bad = source, bad

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.bad.get(index) or self.source[index]


def test_a_bad_image_is_replaced_by_the_next_of_the_order():
    data = numbered(20, 1)
    order = [int(b["image"][0, 0, 0, 0]) for b in collect(train_batches(data, PLAIN, 0, 20, 1, 0))]
    wrong = {order[3]: 7, order[4]: -1, order[19]: 2}  # labels that do not exist
    labels = np.array([wrong.get(i, 0) for i in range(20)])
    options = dataclasses.replace(PLAIN, max_bad_images=3)
    expected = [*order[:3], order[5], *order[5:6], *order[5:19], order[0]]
    for size in (1, 4):
        batches = collect(train_batches(numbered(20, 1, labels), options, 0, 20 // size, size, 0))
        shown = [int(i) for batch in batches for i in batch["image"][:, 0, 0, 0]]
        assert shown == expected
        assert all((batch["label"] == 0).all() for batch in batches)
        notes = [note for batch in batches for note in batch["notes"]]
        assert [note.name for note in notes] == [f"train/{order[i]}" for i in (3, 4, 4, 19)]
        assert notes[0].reason == "label 7 is not among the 2 classes"
        assert {note.kind for note in notes} == {"skipped"}


def test_bad_test_images_are_masked_and_noted(dataset):
    bad = {
        1: Example(b"", 0, "val/cat/empty.jpg"),
        2: Example(dataset.test[2].image[:-9], 0, "val/cat/cut.jpg"),
        5: Example(dataset.test[5].image, 9, "val/dog/label.jpg"),
    }
    batches = collect(evaluation_batches(damaged(dataset, bad), OPTIONS, INFO, 4))
    np.testing.assert_array_equal(
        np.concatenate([b["mask"] for b in batches]), [1, 0, 0, 1, 1, 0, 1, 0]
    )
    notes = {n.name: n.reason for b in batches for n in b["notes"]}
    assert list(notes) == ["val/cat/empty.jpg", "val/cat/cut.jpg", "val/dog/label.jpg"]
    assert "Premature end" in notes["val/cat/cut.jpg"]


def test_vanished_files_are_bad_images(tmp_path):
    data = open_dataset("folder", write_folder(tmp_path, {"train": {"a": 3}, "val": {"a": 2}}))
    (tmp_path / "train/a/0001.jpg").unlink()
    (tmp_path / "val/a/0000.jpg").unlink()
    options = dataclasses.replace(OPTIONS, max_bad_images=1)
    (batch,) = collect(train_batches(data, options, 0, 1, 3, 0))
    assert [n.name for n in batch["notes"]] == ["train/a/0001.jpg"]
    assert "No such file" in batch["notes"][0].reason
    (batch,) = collect(evaluation_batches(data, options, INFO, 2))
    np.testing.assert_array_equal(batch["mask"], [0, 1])


@pytest.mark.parametrize(("count", "limit"), [(20, 5), (4, 100)])
def test_a_stretch_of_bad_images_ends_the_training(count, limit):
    options = dataclasses.replace(PLAIN, max_bad_images=limit)
    data = numbered(count, 1, np.full(count, 5))
    with pytest.raises(TrainingError, match=f"{min(count, limit + 1)} image.*--max-bad-images"):
        collect(train_batches(data, options, 0, 1, 2, 0))


def test_errors_of_a_worker_arrive_as_they_are(tmp_path):
    data = numbered(4, 1, np.full(4, 5))
    with pytest.raises(TrainingError, match="--max-bad-images 0"):
        collect(train_batches(data, dataclasses.replace(PLAIN, workers=1), 0, 1, 2, 0))


def test_bad_images_are_counted_once_and_limited():
    lines = []
    bad = BadImages(2, lines.append)
    bad.add([Note("skipped", "a", "empty file"), Note("skipped", "b", "cut")])
    bad.add([Note("skipped", "a", "empty file"), Note("converted", "c", "CMYK")])
    bad.add([Note("converted", "c", "CMYK"), Note("excluded", "d", "listed")])
    assert lines == ["skipped a: empty file", "skipped b: cut", "note: c: CMYK"]
    with pytest.raises(TrainingError, match=r"3 image.*--max-bad-images 2.*b: cut; e: gone"):
        bad.add([Note("skipped", "e", "gone")])
    bad = BadImages(0, lines.append)
    del lines[:]
    bad.add(Note("converted", str(i), "CMYK") for i in range(100))
    assert lines == ["note: 0: CMYK"]
    bad.summarise()
    assert lines[1:] == ["note: CMYK: 100 images (such as 0)"]


def test_excluded_images_are_masked_and_counted(dataset, tmp_path):
    (tmp_path / "list").write_text("# ImageNet's\n0001.jpg\n\nsome/where/0003\n77\n")
    exclude = read_exclusions(tmp_path / "list")
    assert exclude == {"0001", "0003", "ILSVRC2012_val_00000077"}
    batches = collect(evaluation_batches(dataset, OPTIONS, INFO, 8, exclude=exclude))
    np.testing.assert_array_equal(batches[0]["mask"], [1, 0, 1, 1, 0, 1, 0, 0])
    assert [(n.kind, n.name) for n in batches[0]["notes"]] == [
        ("excluded", f"val/{name}.jpg") for name in ("cat/0001", "dog/0001", "dog/0003")
    ]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffcat 1.jpg\r\n2\r\n\r\n",
        "cat 1.jpg;\n2;\n",
        "# two\n2, \n  deep/cat 1.png\t\n",
        "\ufeffcat 1.jpg\n2\n".encode("utf-16-le"),
    ],
)
def test_lists_of_exclusions_however_they_were_saved(tmp_path, content):
    path = tmp_path / "list"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_exclusions(path) == {"cat 1", "ILSVRC2012_val_00000002"}
    path.write_text("1;2, 3\n")
    assert read_exclusions(path) == {f"ILSVRC2012_val_0000000{i}" for i in (1, 2, 3)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names no"),
        (b"50001\n", "line 1: 50001"),
        (b"1\n0\n", "line 2"),
        (b"\xff\xfe", "read"),
        ("1\nBär.jpg".encode("latin-1"), "line 2: byte 0xe4"),
        (b"1\na.jpg;b.jpg\n", "line 2: 'a.jpg;b.jpg' is more than a name"),
        (b"1;2;0", "line 1: 0 is not"),
    ],
)
def test_unusable_lists_of_exclusions(tmp_path, content, words):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_exclusions(tmp_path / "list")
    with pytest.raises(UsageError, match="absent"):
        read_exclusions(tmp_path / "absent")


def test_batches_that_cannot_be(dataset, monkeypatch):
    with pytest.raises(ValueError, match="shared by 3"):
        train_batches(dataset, OPTIONS, 0, 1, 4, 0, 0, 3)
    with pytest.raises(ValueError, match="24 of 23"):
        train_batches(dataset, OPTIONS, 0, 1, 24, 0)
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda _: os.terminal_size((0, 0)))
    monkeypatch.setattr(os.terminal_size, "free", 1000, raising=False)
    with pytest.raises(UsageError, match=r"--workers 2 need.*--shm-size"):
        train_batches(dataset, dataclasses.replace(OPTIONS, workers=2), 0, 9, 4, 0)


SCRIPT = """
    import sys, time
    from pathlib import Path
    from train.data.options import InputOptions
    from train.data.pipeline import train_batches
    from train.data.open_dataset import open_dataset

    if __name__ == "__main__":
        data = open_dataset("folder", Path(sys.argv[1]))
        options = InputOptions(16, "inception", workers=1)
        batches = train_batches(data, options, 0, 10**9, 4, 0)
        kept = [next(batches) for _ in range(3)]  # the resource tracker would name what leaks
        print(sorted(set(sys.modules) & {"flax", "tensorflow", "torch"}), flush=True)
        %s
"""


def run(folder: Path, tmp_path: Path, last: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT % last))
    return subprocess.run(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("last", ["pass", "raise KeyboardInterrupt"])
def test_the_workers_end_with_the_program_and_leave_nothing(folder, tmp_path, last):
    process = run(folder, tmp_path, last)
    assert process.stdout == "[]\n"
    if last == "pass":
        assert (process.returncode, process.stderr) == (0, "")
    else:
        assert process.stderr.rstrip().endswith("KeyboardInterrupt")
        assert "Exception ignored" not in process.stderr
        assert "leaked" not in process.stderr


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ({"process_cpu_count": lambda: 3, "sched_getaffinity": lambda _: {0, 1}}, 3),
        ({"sched_getaffinity": lambda _: {0, 1}}, 2),
        ({"cpu_count": lambda: 5}, 5),  # macOS before Python 3.13
        ({"cpu_count": lambda: None}, 1),
    ],
)
def test_cores_are_counted_on_every_system(monkeypatch, dataset, offered, expected):
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    for name, function in offered.items():
        monkeypatch.setattr(os, name, function, raising=False)
    assert available_cores() == expected
    with train_batches(dataset, OPTIONS, 0, 1, 4, 0) as batches:
        assert next(batches)["image"].shape == (4, 16, 16, 3)

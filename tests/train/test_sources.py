"""Tests how data sets are found and read, their fingerprints, and errors for unusable ones."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys

import numpy as np
import pytest

from tests.helpers.written_images import encode, gradient, write_folder
from train.conversion.from_folder import convert_folder
from train.data import fashion_mnist, image_folder
from train.data.bad_images import BadImageError
from train.data.data_digest import fingerprint
from train.data.open_dataset import open_dataset
from train.errors import UsageError


def test_embedded_images():
    dataset = open_dataset("fashion_mnist")
    assert (len(dataset.train), len(dataset.test), dataset.channels) == (6000, 1000, 1)
    assert len(dataset.classes) == 10
    for source, count in ((dataset.train, 600), (dataset.test, 100)):
        examples = [source[i] for i in range(len(source))]
        np.testing.assert_array_equal(np.bincount([e.label for e in examples]), [count] * 10)
        assert {(e.image.shape, e.image.dtype.name) for e in examples} == {((28, 28, 1), "uint8")}
    assert dataset.test[17].name == "test/17"
    # No test image is a training image.
    seen = {dataset.train[i].image.tobytes() for i in range(6000)}
    assert not any(dataset.test[i].image.tobytes() in seen for i in range(1000))
    assert sum(f.stat().st_size for f in fashion_mnist.FOLDER.iterdir()) < 4e6
    assert "Copyright © 2017 Zalando SE" in (fashion_mnist.FOLDER / "README.md").read_text()


def test_folder_in_torchvisions_order(tmp_path):
    write_folder(tmp_path, {"train": {"b": 2, "a": 1, "B": 1}, "val": {"a": 2}, "test": {"b": 1}})
    dataset = open_dataset("folder", tmp_path)
    assert dataset.classes == ("B", "a", "b")
    assert dataset.channels == 3
    assert [dataset.train[i][1:] for i in range(len(dataset.train))] == [
        (0, "train/B/0000.jpg"),
        (1, "train/a/0000.jpg"),
        (2, "train/b/0000.jpg"),
        (2, "train/b/0001.jpg"),
    ]
    assert dataset.train[3].image == (tmp_path / "train/b/0001.jpg").read_bytes()
    assert [dataset.test[i].label for i in range(2)] == [1, 1]
    tested = open_dataset("folder", tmp_path, eval_split="test")
    assert [tested.test[i][1:] for i in range(len(tested.test))] == [(2, "test/b/0000.jpg")]


def test_a_hostile_folder(tmp_path):
    write_folder(tmp_path, {"train": {"a": 1, "b": 1}, "validation": {"a": 1}})
    a = tmp_path / "train/a"
    data = encode(gradient(4, 4))
    for name in ("deep/er", "deep/er/.hidden", "Z"):
        (a / name).mkdir(parents=True)
    for name in ("deep/er/x.JPEG", "Z/y.WebP", "ä ü.png", os.fsdecode(b"\xff\xfe.bmp")):
        (a / name).write_bytes(data)
    for name in (".x.jpg", "._0000.jpg", "notes.txt", "deep/er/.hidden/x.jpg", "jpg"):
        (a / name).write_bytes(data)
    (tmp_path / "train/.ipynb_checkpoints").mkdir()
    (tmp_path / "train/README.md").write_text("")
    (a / "deep/loop").symlink_to(a)
    (tmp_path / "train/b/link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(a / "pipe.jpg")  # opening it would wait for ever
    dataset = open_dataset("folder", tmp_path)
    assert dataset.classes == ("a", "b")
    source = pickle.loads(pickle.dumps(dataset.train))
    assert [source[i].name for i in range(len(source) - 1)] == [
        "train/a/0000.jpg",
        "train/a/ä ü.png",
        r"train/a/\xff\xfe.bmp",
        "train/a/Z/y.WebP",
        "train/a/deep/er/x.JPEG",
        "train/b/0000.jpg",
    ]
    with pytest.raises(BadImageError, match="No such file") as error:
        source[len(source) - 1]
    assert error.value.name == "train/b/link.jpg"


def test_names_of_many_files_are_small():
    count = 100_000
    names = [b"n01440764_%08d.JPEG" % i for i in range(count)]
    offsets = np.cumsum([0, *map(len, names)])
    starts = np.array([0, count // 2, count])
    source = image_folder.FolderSource("/d", "train", ("a", "b"), b"".join(names), offsets, starts)
    assert len(pickle.dumps(source)) < 34 * count
    with pytest.raises(BadImageError) as error:
        source[count // 2]
    assert error.value.name == f"train/b/n01440764_{count // 2:08d}.JPEG"


@pytest.mark.parametrize(
    ("counts", "splits", "words"),
    [
        ({"val": {"a": 1}}, {}, ["no folder 'train'", "/train/CLASS"]),
        ({"train": {"a": 1}}, {}, ["'a' has 1 image(s)", "two at least"]),
        ({"train": {"a": 1, "b": 0}, "val": {"a": 1}}, {}, ["train/b", "no images", ".jpeg"]),
        ({"train": {}, "val": {"a": 1}}, {}, ["train", "no class folders"]),
        ({"train": {"a": 1}, "val": {"a": 1, "z": 1}}, {}, ["'z'", "lacks"]),
        ({"train": {"a": 1}, "val": {"a": 1}}, {"eval_split": "tset"}, ["'tset'"]),
        ({"train": {"a": 1}, "val": {"a": 1}}, {"train_split": "tarin"}, ["'tarin'"]),
    ],
)
def test_unusable_folders(tmp_path, counts, splits, words):
    write_folder(tmp_path, counts)
    for split in counts:
        (tmp_path / split).mkdir(exist_ok=True)
    with pytest.raises(UsageError) as error:
        open_dataset("folder", tmp_path, **splits)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_folders_that_are_not_there_or_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--data-dir"):
        open_dataset("folder")
    with pytest.raises(UsageError, match="absent: no such folder"):
        open_dataset("folder", tmp_path / "absent")
    with pytest.raises(UsageError, match="comes with the repository"):
        open_dataset("fashion_mnist", tmp_path)
    write_folder(tmp_path, {"train": {"a": 1}, "val": {"a": 1}})

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(image_folder.os, "scandir", refuse)
    with pytest.raises(UsageError, match="train cannot be read: Permission denied"):
        open_dataset("folder", tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    counts = {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 2}}
    convert_folder(write_folder(root / "images", counts), root / "tfds", "pets")
    return root


def test_prepared_data_sets(prepared):
    plain = open_dataset("folder", prepared / "images")
    for name, folder in (
        ("pets", "tfds"),
        ("pets:1.0.0", "tfds"),
        ("pets", "tfds/pets/1.0.0"),
    ):
        dataset = open_dataset(name, prepared / folder)
        assert (dataset.classes, dataset.channels) == (("cat", "dog"), 3)
        for source, expected in ((dataset.train, plain.train), (dataset.test, plain.test)):
            copy = pickle.loads(pickle.dumps(source))
            assert len(copy) == len(expected)
            assert [copy[i] for i in range(len(copy))] == [
                expected[i] for i in range(len(expected))
            ]
    parts = open_dataset("pets", prepared / "tfds", "train[:60%]", "train[60%:]")
    assert (len(parts.train), len(parts.test)) == (3, 2)
    assert parts.test[0].image == plain.train[3].image


def copy_version(prepared, tmp_path, place, **changes):
    """Copies the data set to tmp_path/place with changed metadata; returns the new folder.

    `changes` are new values of keys of dataset_info.json.
    """
    folder = tmp_path / place
    folder.mkdir(parents=True)
    for path in (prepared / "tfds/pets/1.0.0").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, **changes}))
    return folder


def test_the_highest_version_and_the_only_configuration_are_taken(prepared, tmp_path):
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        copy_version(prepared, tmp_path, f"pets/small/{version}", version=version)
    (tmp_path / "pets/downloads").mkdir()
    assert open_dataset("pets", tmp_path).train.folder.endswith("small/1.10.0")
    assert open_dataset("pets/small:1.9.0", tmp_path).train.folder.endswith("small/1.9.0")
    copy_version(prepared, tmp_path, "pets/large/1.0.0")
    with pytest.raises(UsageError, match="pets/large, pets/small"):
        open_dataset("pets", tmp_path)
    with pytest.raises(UsageError, match=r"no version 3\.0\.0"):
        open_dataset("pets/small:3.0.0", tmp_path)


def test_unusable_prepared_data_sets(prepared, tmp_path, monkeypatch):
    root = prepared / "tfds"
    for arguments, words in [
        (("imagenet2012", root), "imagenet2012/VERSION/dataset_info.json"),
        (("birds", root / "pets/1.0.0"), "holds 'pets', not 'birds'"),
        (("pets", root, "learn"), "split 'learn'"),
        (("pets", root, None, "train[200%:300%]"), "split 'train.200%"),
    ]:
        with pytest.raises(UsageError, match=words):
            open_dataset(*arguments)
    copy_version(prepared, tmp_path, "old/1.0.0", name="old", fileFormat="tfrecord")
    with pytest.raises(UsageError, match=r"prepare.py tfrecord \S+old/1.0.0 DST"):
        open_dataset("old", tmp_path)
    folder = copy_version(prepared, tmp_path, "cut/1.0.0", name="cut")
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UsageError, match="cut"):
        open_dataset("cut", tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UsageError, match=r'pip install -e ".\[train\]"'):
        open_dataset("pets", root)


def test_features_that_do_not_fit(prepared, tmp_path):
    folder = copy_version(prepared, tmp_path, "two/1.0.0", name="two", supervisedKeys=None)
    features = json.loads((folder / "features.json").read_text())
    keys = features["featuresDict"]["features"]
    keys["mask"] = keys["image"]
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UsageError, match=r"several features could be the image among .*mask"):
        open_dataset("two", tmp_path)
    del keys["mask"], keys["label"]
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UsageError, match="no feature could be the label"):
        open_dataset("two", tmp_path)


def test_a_cut_file_of_records_gives_bad_images(prepared, tmp_path):
    folder = copy_version(prepared, tmp_path, "pets/1.0.0")
    dataset = open_dataset("pets", tmp_path)
    (file,) = folder.glob("*train*")
    os.truncate(file, file.stat().st_size // 2)
    copy = pickle.loads(pickle.dumps(dataset.train))
    with pytest.raises(BadImageError, match="record") as error:
        copy[1]
    assert error.value.name == "train/1"


def test_fingerprints_of_folders_know_names_sizes_and_classes(tmp_path):
    for name in ("a/cat/1.png", "a/cat/2.png", "a/dog/1.png", "a/dog/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"content")

    def prints(name: str) -> list[dict]:
        data = open_dataset("folder", tmp_path / name, eval_share=0.5)
        return [fingerprint(data.train), fingerprint(data.test)]

    first = prints("a")
    assert [found["by_class"] for found in first] == [[1, 1], [1, 1]]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert prints("b") == first
    for change in (
        lambda: (tmp_path / "b/cat/1.png").write_bytes(b"other content"),
        lambda: (tmp_path / "b/cat/1.png").rename(tmp_path / "b/cat/3.png"),
        lambda: (tmp_path / "b/cat").rename(tmp_path / "b/cow"),
    ):
        before = prints("b")
        change()
        assert prints("b") != before


def test_fingerprints_of_arrays_and_records(prepared, tmp_path):
    data = open_dataset("fashion_mnist")
    found = fingerprint(data.test)
    assert found["by_class"] == [100] * 10
    assert found["digest"] != fingerprint(data.train)["digest"]

    def prints(root, split="train"):
        return fingerprint(open_dataset("pets", root, split, "train").train)

    first = prints(prepared / "tfds")
    shutil.copytree(prepared / "tfds", tmp_path / "copy")
    assert prints(tmp_path / "copy") == first
    assert prints(tmp_path / "copy", "train[:60%]") != first
    (tmp_path / "copy/pets/1.0.0/more").write_text("")
    assert prints(tmp_path / "copy") != first

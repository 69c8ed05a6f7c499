"""Tests that TFDS data sets are written and read without TensorFlow."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorboardX.record_writer import masked_crc32c

from inception_jax.tfrecords import read_records
from tests.helpers.written_images import encode, write_folder
from train import prepare
from train.conversion import from_folder, tfds_writer
from train.conversion.from_folder import convert_folder
from train.conversion.from_tfrecords import convert_tfrecords
from train.data.open_dataset import open_dataset
from train.errors import TrainingError, UsageError

ROOT = Path(__file__).parents[2]
COUNTS = {"train": {"cat": 4, "dog": 3}, "val": {"cat": 1, "dog": 2}}

# Hides TensorFlow as if it were not installed.
WITHOUT_TENSORFLOW = """
    import importlib.machinery as machinery
    find = machinery.PathFinder.find_spec
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] == "tensorflow" else find(name, path, target)
    machinery.PathFinder.find_spec = find_spec
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), COUNTS)


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    return convert_folder(folder, tmp_path_factory.mktemp("tfds"), "pets")


def examples(source) -> list:
    return [source[i] for i in range(len(source))]


def records(path: Path) -> list[bytes]:
    reader = ArrayRecordReader(str(path))
    return [reader.read([i])[0] for i in range(reader.num_records())]


def frame(record: bytes) -> bytes:
    """Returns a record as a TFRecord file stores it, with its length and checksums."""
    length = struct.pack("<Q", len(record))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, record))
    return length + next(checksums) + record + next(checksums)


def as_tfrecord(version: Path, target: Path) -> Path:
    """Converts a data set to TFRecord, TFDS's default format; returns the new folder, `target`.

    `version` is the folder NAME/VERSION of a data set in the array_record format.
    """
    target.mkdir(parents=True)
    info = json.loads((version / "dataset_info.json").read_text())
    for path in version.iterdir():
        if "array_record" in path.name:
            name = path.name.replace("array_record", "tfrecord")
            content = b"".join(map(frame, records(path)))
            (target / name).write_bytes(content)
        else:
            (target / path.name).write_bytes(path.read_bytes())
    (target / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    return target


def test_everything_runs_without_tensorflow(folder, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(WITHOUT_TENSORFLOW))
    script = f"""
        import importlib.util, sys
        from pathlib import Path
        sys.argv[0] = "prepare.py"
        from train import prepare
        from train.data.open_dataset import open_dataset
        assert importlib.util.find_spec("tensorflow") is None
        assert prepare.main(["folder", {str(folder)!r}, "out", "--name", "pets"]) == 0
        dataset = open_dataset("pets", Path("out"))
        print(dataset.classes, len(dataset.train), len(dataset.test), dataset.train[6].name)
    """
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    ready, read = process.stdout.splitlines()
    assert ready == "out/pets/1.0.0 is ready: --dataset pets --data-dir out"
    assert read == "('cat', 'dog') 7 3 train/dog/0002.jpg"


def test_the_script_starts_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "train/prepare.py"), "folder", "absent", "out"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stderr) == (2, "error: absent: no such folder\n")


def test_tfds_reads_what_was_prepared(folder, prepared):
    builder = tfds.builder_from_directory(str(prepared))
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert {k: s.num_examples for k, s in builder.info.splits.items()} == {
        "train": 7,
        "validation": 3,
    }
    read = builder.as_data_source("validation")[2]
    assert read["image"].shape == (24, 32, 3)
    assert read["file_name"] == b"val/dog/0001.jpg"


def test_many_images_go_into_several_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(from_folder, "_SHARD_IMAGES", 3)
    target = convert_folder(folder, tmp_path, "pets")
    assert sorted(path.name for path in target.glob("*array_record*")) == [
        *(f"pets-train.array_record-0000{i}-of-00003" for i in range(3)),
        "pets-validation.array_record-00000-of-00001",
    ]
    plain, written = open_dataset("folder", folder), open_dataset("pets", tmp_path)
    assert examples(written.train) == examples(plain.train)
    assert examples(written.test) == examples(plain.test)


def test_a_prepared_data_set_changes_its_format_only(prepared, tmp_path):
    source = as_tfrecord(prepared, tmp_path / "old/pets/1.0.0")
    with pytest.raises(UsageError, match=r"prepare\.py tfrecord"):
        open_dataset("pets", tmp_path / "old")
    target = convert_tfrecords(source, tmp_path / "new")
    assert target == tmp_path / "new/pets/1.0.0"
    assert {p.name: p.read_bytes() for p in target.glob("*.txt")} == {
        p.name: p.read_bytes() for p in prepared.glob("*.txt")
    }
    for path in prepared.glob("*array_record*"):
        assert records(target / path.name) == records(path)
    before, after = open_dataset("pets", prepared), open_dataset("pets", tmp_path / "new")
    assert examples(before.train) == examples(after.train)
    assert examples(before.test) == examples(after.test)


def test_damaged_records_leave_nothing_behind(prepared, tmp_path):
    source = as_tfrecord(prepared, tmp_path / "old")
    (file,) = source.glob("*train.tfrecord*")
    whole = file.read_bytes()
    first = len(frame(next(read_records(file))))
    damage = {
        "record 0: wrong checksum": whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
        "record 0: wrong checksum|packed": b"\x1f\x8b" + whole[2:],
        "record 6: the file is truncated": whole[:-1],
        "record 1: the file is truncated": whole[: first + 5],
        "1 records, dataset_info.json says 7": whole[:first],
    }
    for words, content in damage.items():
        file.write_bytes(content)
        with pytest.raises(UsageError, match=words):
            convert_tfrecords(source, tmp_path / "new")
        assert not [p for p in (tmp_path / "new").rglob("*") if p.is_file() or "1.0" in p.name]
    file.unlink()
    with pytest.raises(UsageError, match=r"1 of 2 files are missing, such as .*train"):
        convert_tfrecords(source, tmp_path / "new")
    with pytest.raises(UsageError, match="as array_record, not as tfrecord"):
        convert_tfrecords(prepared, tmp_path / "new")


def inception_record(image: bytes, label: int, synset: str | None, name: str | None) -> bytes:
    features = tfds.features
    spec = {"encoded": features.Text(), "class": {"label": features.Scalar(np.int64)}}
    example = {"encoded": image, "class": {"label": label}}
    if synset is not None:
        spec["class"]["synset"], example["class"]["synset"] = features.Text(), synset
    if name is not None:
        spec["filename"], example["filename"] = features.Text(), name
    return features.FeaturesDict({"image": spec}).serialize_example({"image": example})


def write_shards(root: Path, split: str, shards: list[list[bytes]]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for i, shard in enumerate(shards):
        path = root / f"{split}-{i:05d}-of-{len(shards):05d}"
        path.write_bytes(b"".join(map(frame, shard)))


def photo(value: int) -> bytes:
    return encode(np.full((8, 9, 3), value, np.uint8))


def test_inceptions_shards(tmp_path):
    train = [
        [inception_record(photo(i), i % 3 + 1, f"n0{i % 3}", f"n0_{i}.JPEG") for i in shard]
        for shard in ((0, 1, 2), (3, 4))
    ]
    write_shards(tmp_path / "src", "train", train)
    test = [inception_record(photo(9), 2, "n01", "ILSVRC2012_val_00000001.JPEG")]
    write_shards(tmp_path / "src/validation", "validation", [test])
    target = convert_tfrecords(tmp_path / "src", tmp_path / "out")
    assert target == tmp_path / "out/imagenet2012/1.0.0"
    dataset = open_dataset("imagenet2012", tmp_path / "out")
    assert dataset.classes == ("n00", "n01", "n02")
    assert examples(dataset.train) == [(photo(i), i % 3, f"n0_{i}.JPEG") for i in range(5)]
    assert examples(dataset.test) == [(photo(9), 1, "ILSVRC2012_val_00000001.JPEG")]
    shifted = convert_tfrecords(tmp_path / "src", tmp_path / "out", "background", label_offset=0)
    assert open_dataset("background", shifted).train[1].label == 2


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([inception_record(photo(0), 0, "n00", "x")], r"label 0: with --label-offset 0"),
        ([inception_record(photo(0), 1, "a", "x"), inception_record(photo(0), 1, "b", "y")], "'b'"),
        ([inception_record(b"", 1, "a", "x")], "lacks image/encoded"),
        ([b"nonsense"], "no tf.train.Example"),
    ],
)
def test_unusable_shards(tmp_path, records, words):
    write_shards(tmp_path / "src", "train", [records])
    with pytest.raises(UsageError, match=words):
        convert_tfrecords(tmp_path / "src", tmp_path / "out")


def test_incomplete_shards(tmp_path):
    with pytest.raises(UsageError, match="neither"):
        convert_tfrecords(tmp_path, tmp_path / "out")
    record = inception_record(photo(0), 1, None, None)
    write_shards(tmp_path, "train", [[record]] * 3)
    dataset = convert_tfrecords(tmp_path, tmp_path / "out")
    source = open_dataset("imagenet2012", dataset, eval_split="train")
    assert source.classes == ("0",)
    assert source.train[2].name == "train-00002-of-00003/0"
    (tmp_path / "train-00001-of-00003").unlink()
    with pytest.raises(UsageError, match="1 of 3 missing, such as train-00001-of-00003"):
        convert_tfrecords(tmp_path, tmp_path / "other")


def test_an_existing_result_is_not_touched(folder, prepared, tmp_path, capsys):
    before = {path: path.read_bytes() for path in prepared.iterdir()}
    arguments = ["folder", str(folder), str(prepared.parent.parent), "--name", "pets"]
    assert prepare.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in prepared.iterdir()} == before
    with pytest.raises(UsageError, match="--name Pets"):
        convert_folder(folder, tmp_path, "Pets")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be created"):
        convert_folder(folder, tmp_path / "file", "pets")


def test_a_full_disk_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    class Full(tfds_writer.ArrayRecordWriter):
        def write(self, record):
            raise RuntimeError("RESOURCE_EXHAUSTED: No space left on device")

    class Silent(tfds_writer.ArrayRecordWriter):
        def write(self, record):
            pass

    for writer, words in ((Full, "disk full.*No space"), (Silent, "holds 0 of 7")):
        monkeypatch.setattr(tfds_writer, "ArrayRecordWriter", writer)
        with pytest.raises(TrainingError, match=words):
            convert_folder(folder, tmp_path, "pets")
        assert list((tmp_path / "pets").iterdir()) == []


def test_a_file_that_vanishes_stops_the_preparation(folder, tmp_path, monkeypatch):
    *sources, passed_over = from_folder.list_folder(folder)
    copy = write_folder(tmp_path / "copy", COUNTS)
    moved = [type(s)(**{**vars(s), "root": copy}) for s in sources]
    monkeypatch.setattr(from_folder, "list_folder", lambda _: (*moved, passed_over))
    (copy / "train/dog/0001.jpg").unlink()
    with pytest.raises(UsageError, match=r"train/dog/0001.jpg cannot be read: No such file"):
        convert_folder(copy, tmp_path, "pets")

"""Converts TFRecord files into TFDS data sets in the array_record format.

`tfds convert_format` of TFDS 4.9.10 cannot replace this module. It needs TensorFlow and
apache_beam. If its target differs from its source folder, it writes no metadata, because it looks
for the new files in the source folder. With several workers, which is the default, it ignores
errors such as a damaged file. It does not read the ImageNet shards of TensorFlow's Inception code,
which are not TFDS data sets.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from inception_jax.tfrecords import read_records
from train.conversion import tfds_writer
from train.conversion.tfds_writer import Shards, new_folder, write
from train.errors import UsageError

_SHARD = re.compile(r"(train|validation)-(\d{5})-of-(\d{5})")


def convert_tfrecords(
    src: Path, dst: Path, name: str | None = None, label_offset: int = -1
) -> Path:
    """Converts TFRecord files into a TFDS data set in the array_record format.

    Args:
        src: path of the folder NAME/VERSION of a TFDS data set, or of a folder of shards such as
            `train-00000-of-01024` and `validation-00000-of-00128`. The shards have the features
            image/encoded, image/class/label and optionally image/class/synset and image/filename.
        dst: path of the folder in which NAME/VERSION is written.
        name: name of the new data set. None means the name of the old one if `src` is a TFDS data
            set, and "imagenet2012" if `src` has shards.
        label_offset: number to add to the labels of shards. The labels of a TFDS data set do not
            change.

    Returns:
        The path of the new folder NAME/VERSION.

    Raises:
        UsageError: if the files are damaged or incomplete, or the result exists.
        TrainingError: if the result cannot be written.
    """
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder")
    if (src / "dataset_info.json").is_file():
        return _convert_tfds(src, dst, name)
    return _convert_shards(src, dst, name or "imagenet2012", label_offset)


def _convert_tfds(src: Path, dst: Path, name: str | None) -> Path:
    """Copies the records of a TFDS data set to ArrayRecord files; adapts dataset_info.json.

    Args:
        src: path of the folder NAME/VERSION of the data set, or NAME/CONFIG/VERSION.
        dst: path of the folder in which the same folders are made.
        name: new name of the data set; None to keep the old one.

    Returns:
        The path of the new folder NAME/VERSION or NAME/CONFIG/VERSION.

    Raises:
        UsageError: if the data set is damaged or incomplete or was not prepared as TFRecord, if
            the disk is too small, or if the result exists.
        TrainingError: if the result cannot be written.
    """
    try:
        info = tfds.builder_from_directory(str(src)).info
        metadata = json.loads((src / "dataset_info.json").read_text())
    except Exception as error:  # TFDS raises many kinds
        raise UsageError(f"{src} is no prepared data set that TFDS can read: {error}") from error
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UsageError(f"{src} was prepared as {metadata.get('fileFormat')}, not as tfrecord")
    name = name or str(metadata["name"])
    config, version = str(metadata.get("configName", "")), str(info.version)
    files = [Path(path) for split in info.splits.values() for path in split.filepaths]
    shards: Shards = {
        name: [
            _counted(Path(path), length)
            for path, length in zip(split.filepaths, split.shard_lengths, strict=True)
        ]
        for name, split in info.splits.items()
    }
    _require(files)
    with new_folder(dst, f"{name}/{config}" if config else name, version) as folder:
        _require_space(folder, files)
        write(folder, name, shards, info.splits.total_num_examples)
        records = {path.name for path in files}
        for path in src.iterdir():
            if path.is_file() and path.name not in records:
                shutil.copyfile(path, folder / path.name)
        metadata.update(name=name, fileFormat=tfds_writer.FORMAT)
        for split in metadata["splits"]:
            split["filepathTemplate"] = tfds_writer.TEMPLATE
        (folder / "dataset_info.json").write_text(json.dumps(metadata, indent=2) + "\n")
    return dst / name / config / version


def _counted(path: Path, expected: int) -> Iterator[bytes]:
    count = 0
    for record in read_records(path, UsageError):
        yield record
        count += 1
    if count != expected:
        raise UsageError(f"{path} has {count} records, dataset_info.json says {expected}")


def _convert_shards(src: Path, dst: Path, name: str, label_offset: int) -> Path:
    """Converts ImageNet shards to a TFDS data set of images with labels and file names.

    Args:
        src: path of the folder of the shards, see `_shard_files`.
        dst: path of the folder in which NAME/1.0.0 is written.
        name: name of the data set.
        label_offset: number to add to the labels of the shards: -1 if they start at 1, because the
            labels of the data set start at 0.

    Returns:
        The path of the new folder NAME/1.0.0.

    Raises:
        UsageError: if the shards are damaged or incomplete, if a label becomes negative, if the
            disk is too small, or if the result exists.
        TrainingError: if the result cannot be written.
    """
    files = _shard_files(src)
    labels = _Labels(label_offset)
    shards: Shards = {split: list(map(labels.records, paths)) for split, paths in files.items()}
    with new_folder(dst, name, tfds_writer.VERSION) as folder:
        _require_space(folder, [path for paths in files.values() for path in paths])
        lengths = write(folder, name, shards, None)
        tfds_writer.write_metadata(
            folder, name, tfds_writer.image_features(labels.names()), lengths
        )
    return dst / name / tfds_writer.VERSION


def _shard_files(src: Path) -> dict[str, list[Path]]:
    """Lists the shards of each split in `src` and its folders "train" and "validation".

    Returns:
        For each split, the paths of its shards in order.

    Raises:
        UsageError: if there are no shards, or if a shard is missing.
    """
    found: dict[str, dict[int, Path]] = {}
    counts: dict[str, set[int]] = {}
    for folder in (src, src / "train", src / "validation"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if match := _SHARD.fullmatch(path.name):
                split, number, count = match[1], int(match[2]), int(match[3])
                found.setdefault(split, {})[number] = path
                counts.setdefault(split, set()).add(count)
    if not found:
        raise UsageError(
            f"{src} has neither dataset_info.json nor shards such as train-00000-of-01024"
        )
    for split, numbers in counts.items():
        missing = sorted(set(range(max(numbers))) - set(found[split]))
        if len(numbers) > 1 or missing:
            raise UsageError(
                f"{src}: the shards of {split} are incomplete: {len(missing)} of {max(numbers)} "
                f"missing, such as {split}-{(missing or [0])[0]:05d}-of-{max(numbers):05d}"
            )
    return {split: [path for _, path in sorted(found[split].items())] for split in sorted(found)}


class _Labels:
    """The class names of ImageNet shards, collected by `records` while it converts the shards.

    Args:
        offset: number to add to the labels.
    """

    def __init__(self, offset: int) -> None:
        text = tfds.features.Text()
        label = tfds.features.Scalar(np.int64)
        # A slash in a record's key stands for a level of nested features.
        self._source = tfds.features.FeaturesDict(
            {
                "image": {
                    "encoded": text,
                    "class": {"label": label, "synset": text},
                    "filename": text,
                }
            }
        )
        self._target = tfds_writer.image_features(None)
        self._offset = offset
        self._synsets: dict[int, str] = {}

    def records(self, path: Path) -> Iterator[bytes]:
        """Converts the records of an ImageNet shard to records of a TFDS data set.

        Also collects the class names, see `names`.

        Args:
            path: path of the shard, such as `train-00000-of-01024`.

        Yields:
            Serialized records. Each has an encoded image, which is copied unchanged, its label with
            the offset added, and its file name.

        Raises:
            UsageError: if a record is damaged or incomplete, a label is negative after the offset
                is added, or records with the same label have different synsets.
        """
        for number, record in enumerate(read_records(path, UsageError)):
            where = f"{path}, record {number}"
            try:
                example: Any = self._source.deserialize_example_np(record)
            except Exception as error:  # protobuf raises many kinds
                raise UsageError(f"{where} is no tf.train.Example: {error}") from error
            image = example["image"]
            if not image["encoded"] or image["class"]["label"] is None:
                raise UsageError(f"{where} lacks image/encoded or image/class/label")
            label = int(image["class"]["label"]) + self._offset
            if label < 0:
                raise UsageError(
                    f"{where} has the label {label - self._offset}: with --label-offset 0 labels "
                    "start at 0"
                )
            self._remember(label, image["class"]["synset"] or b"", where)
            name = (image["filename"] or b"").decode(errors="replace") or f"{path.name}/{number}"
            yield tfds_writer.serialize(self._target, image["encoded"], label, name)

    def _remember(self, label: int, synset: bytes, where: str) -> None:
        name = synset.decode(errors="replace")
        if self._synsets.setdefault(label, name) != name:
            raise UsageError(f"{where}: label {label} is {name!r} and {self._synsets[label]!r}")

    def names(self) -> tuple[str, ...]:
        """Returns the class names in the order of the labels.

        The name of a class is its synset, or its label if it has no synset.
        """
        count = max(self._synsets, default=-1) + 1
        return tuple(self._synsets.get(label) or str(label) for label in range(count))


def _require(paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UsageError(f"{len(missing)} of {len(paths)} files are missing, such as {missing[0]}")


def _require_space(folder: Path, files: list[Path]) -> None:
    needed, free = sum(path.stat().st_size for path in files), shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(f"{folder.parent} has {free / 1e9:.1f} GB free, needs {needed / 1e9:.1f}")

"""Data sets that TensorFlow Datasets (TFDS) prepared as array_record, read without TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from pathlib import Path
from typing import Any

from inception_jax import extras
from train import storage
from train.data.bad_images import BadImageError
from train.data.datasets import Dataset, Example
from train.errors import UsageError

_INFO = "dataset_info.json"
_EVALUATION = ("validation", "test")
_NAME_FEATURES = ("file_name", "filename")


@dataclasses.dataclass
class TfdsSource:
    """The examples of one split. Each process that reads them opens the files itself.

    Args:
        folder: path of the folder of the data set's version.
        split: split in TFDS's notation, such as "train[:90%]".
        image: name of the feature with the encoded image.
        label: name of the feature with the label.
        name: name of the feature with the image's name; None if there is none.
    """

    folder: str
    split: str
    image: str
    label: str
    name: str | None

    @functools.cached_property
    def _records(self) -> Any:
        tfds = _tfds()
        builder = tfds.builder_from_directory(self.folder)
        images = (k for k, f in builder.info.features.items() if isinstance(f, tfds.features.Image))
        decoders = {key: tfds.decode.SkipDecoding() for key in images}
        return builder.as_data_source(self.split, decoders=decoders)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_records"}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        name = f"{self.split}/{index}"
        records = self._records
        try:
            record = records[index]
        # array_record, protobuf and TFDS raise many types of errors for a damaged file.
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise BadImageError(f"unreadable record: {reason}", name) from error
        image, label = record[self.image], record[self.label]
        if not isinstance(image, bytes) or label is None:  # a truncated file
            raise BadImageError("empty record", name)
        if self.name is not None:
            name = _text(record[self.name]) or name
        return Example(image, int(label), name)


def open_tfds(
    name: str, data_dir: Path, train_split: str | None = None, eval_split: str | None = None
) -> Dataset:
    """Opens a prepared data set.

    Args:
        name: name of the data set in TFDS, optionally with config and version:
            "name/config:1.0.0".
        data_dir: path of the folder that contains name/config/version, or of the version's folder.
        train_split: split of the training images, by default "train".
        eval_split: split of the test images, by default the first of "validation" and "test".

    Raises:
        UsageError: if the data set does not exist, is in a bucket, cannot be read, was prepared as
            TFRecord, has no images with one label each, or lacks a requested split.
    """
    if storage.is_remote(data_dir):
        raise UsageError(
            f"--data-dir {data_dir}: array_record's reader opens local files alone. Copy the data "
            "set to a disk, mount the bucket (gcsfuse), or keep the images themselves in the "
            "bucket: --dataset folder"
        )
    tfds = _tfds()
    folder = _version_folder(name, data_dir)
    try:
        info = tfds.builder_from_directory(str(folder)).info
    except Exception as error:  # TFDS raises many types of errors
        raise UsageError(f"{folder} is no prepared data set that TFDS can read: {error}") from error
    if info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UsageError(
            f"{folder} was prepared as {info.file_format.value}, which needs TensorFlow and has no "
            f"random access: convert it with python train/prepare.py tfrecord {folder} DST"
        )
    train_split = train_split or "train"
    if eval_split is None:
        eval_split = next((split for split in _EVALUATION if split in info.splits), None)
    if eval_split is None:
        raise UsageError(
            f"{folder} has the splits {', '.join(sorted(info.splits))}: choose one with "
            "--eval-split, for example 'train[90%:]' with --train-split 'train[:90%]'"
        )
    image, label = _features(tfds, info, folder)
    text = next((key for key in _NAME_FEATURES if key in info.features), None)
    train, test = (
        _open_split(folder, split, image, label, text) for split in (train_split, eval_split)
    )
    classes = _class_names(info.features[label])
    channels = 1 if info.features[image].shape[-1] == 1 else 3
    return Dataset(name, train, test, classes, channels)


def _tfds() -> types.ModuleType:
    """Returns the module `tensorflow_datasets`, imported only here because this takes 0.7 s."""
    return extras.require("tensorflow_datasets", "a data set of TFDS", UsageError)


def _open_split(folder: Path, split: str, image: str, label: str, text: str | None) -> TfdsSource:
    source = TfdsSource(str(folder), split, image, label, text)
    try:
        count = len(source)
    except Exception as error:  # an unknown split, a missing file, a damaged one
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"{folder}: split {split!r} cannot be read: {reason}") from error
    if count == 0:
        raise UsageError(f"{folder}: split {split!r} is empty")
    return source


def _version_folder(name: str, data_dir: Path) -> Path:
    """Returns the folder with dataset_info.json: `data_dir`, or name[/config]/version in it.

    Without a version in `name`, the newest one in `data_dir` is chosen.

    Raises:
        UsageError: if there is no such folder, `data_dir` is that of another data set, or there are
            several configurations and `name` has none.
    """
    path, _, version = name.partition(":")
    if (data_dir / _INFO).is_file():
        found = _read_info(data_dir).get("name")
        if found != path.split("/")[0]:
            raise UsageError(f"--data-dir {data_dir} holds {found!r}, not {name!r}")
        return data_dir
    folder = data_dir / path
    configs = [folder] if _versions(folder) else list(filter(_versions, _folders(folder)))
    if not configs:
        raise UsageError(
            f"no prepared data set {name!r}: looked for {folder}/VERSION/{_INFO}, "
            f"{folder}/CONFIG/VERSION/{_INFO} and {data_dir}/{_INFO} "
            "(built in: fashion_mnist; a folder of images: folder)"
        )
    if len(configs) > 1:
        names = ", ".join(f"{path}/{config.name}" for config in configs)
        raise UsageError(f"{folder} has several configurations, name one: {names}")
    versions = _versions(configs[0])
    if version and version not in versions:
        raise UsageError(f"{configs[0]} has no version {version}: {', '.join(versions)}")
    return versions[version or max(versions, key=_version_key)]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _versions(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in _folders(folder) if (path / _INFO).is_file()}


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _INFO).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}/{_INFO} cannot be read: {error}") from error


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in version.split("."))


def _features(tfds: types.ModuleType, info: Any, folder: Path) -> tuple[str, str]:
    """Returns the name of the feature with the image, and of the feature with the label.

    Args:
        tfds: the module `tensorflow_datasets`.
        info: TFDS's description of the data set.
        folder: folder of the data set, for errors.

    Raises:
        UsageError: if no feature, or more than one, can be the image or the label.
    """
    features = info.features
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    chosen = []
    for what, kind in kinds.items():
        keys = [key for key, feature in features.items() if isinstance(feature, kind)]
        supervised = [key for key in info.supervised_keys or () if key in keys]
        keys = supervised if len(supervised) == 1 else keys
        if len(keys) != 1:
            raise UsageError(
                f"{folder}: {'several features' if keys else 'no feature'} could be the {what} "
                f"among {', '.join(features)}: images with one label each are needed"
            )
        chosen.append(keys[0])
    return chosen[0], chosen[1]


def _class_names(label: Any) -> tuple[str, ...]:
    try:
        return tuple(label.names)
    except ValueError:  # TFDS knows only the number of classes
        return tuple(map(str, range(label.num_classes)))


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

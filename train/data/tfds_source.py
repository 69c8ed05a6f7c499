"""Data sets that TensorFlow Datasets has prepared as array_record, read without TensorFlow."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

from train.data.bad_images import BadImageError
from train.data.datasets import Dataset, Example
from train.errors import UsageError

_EVALUATION = ("validation", "test")
_NAME_FEATURES = ("file_name", "filename")


class TfdsSource:
    """Records of one split; every process opens the files for itself.

    Args:
        folder: the version's folder.
        split: the split, in the language of TFDS.
        image: the feature with the encoded image.
        label: the feature with the label.
        name: the feature with a name, if there is one.
    """

    def __init__(self, folder: str, split: str, image: str, label: str, name: str | None) -> None:
        self.folder, self.split = folder, split
        self.image, self.label, self.name = image, label, name
        self._records: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None}

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, index: int) -> Example:
        name = f"{self.split}/{index}"
        records = self._open()
        try:
            record = records[index]
        # Damage shows as whatever array_record, protobuf or TFDS makes of it.
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise BadImageError(f"unreadable record: {reason}", name) from error
        image, label = record[self.image], record[self.label]
        if not isinstance(image, bytes) or label is None:  # a file that was cut reads as nothing
            raise BadImageError("empty record", name)
        if self.name is not None:
            name = _text(record[self.name]) or name
        return Example(image, int(label), name)

    def _open(self) -> Any:
        if self._records is None:
            self._records = _records(_tfds(), self.folder, self.split)
        return self._records


def open_tfds(
    name: str, data_dir: Path, train_split: str | None = None, eval_split: str | None = None
) -> Dataset:
    """Opens a data set that was prepared below `data_dir`.

    Args:
        name: a name of TFDS, with config and version if wanted: "name/config:1.0.0".
        data_dir: D with D/name/config/version in it, or the version's folder itself.
        train_split: what to learn from, "train" by default.
        eval_split: what to test with; by default the first of "validation" and "test".

    Raises:
        UsageError: if it is not there, was prepared as TFRecord, or has no image with a label.
    """
    tfds = _tfds()
    folder = _version_folder(name, data_dir)
    try:
        info = tfds.builder_from_directory(str(folder)).info
    except Exception as error:  # of whatever kind: it is the metadata that cannot be read
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
            f"{folder} has the splits {', '.join(sorted(info.splits))}: say with --eval-split what "
            "to evaluate on, for example 'train[90%:]' with --train-split 'train[:90%]'"
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
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise UsageError(
            f'{error}: data sets of TFDS need its package, pip install -e ".[train]"'
        ) from error
    return tfds


def _records(tfds: types.ModuleType, folder: str, split: str) -> Any:
    builder = tfds.builder_from_directory(folder)
    images = (k for k, f in builder.info.features.items() if isinstance(f, tfds.features.Image))
    decoders = {key: tfds.decode.SkipDecoding() for key in images}
    return builder.as_data_source(split, decoders=decoders)


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
    """Finds the folder with dataset_info.json: D itself, or D/name[/config]/version."""
    path, _, version = name.partition(":")
    if _is_version(data_dir):
        found = _info(data_dir).get("name")
        if found != path.split("/")[0]:
            raise UsageError(f"--data-dir {data_dir} holds {found!r}, not {name!r}")
        return data_dir
    folder = data_dir / path
    candidates = [folder] if any(map(_is_version, _folders(folder))) else _folders(folder)
    candidates = [c for c in candidates if any(map(_is_version, _folders(c)))]
    if not candidates:
        raise UsageError(
            f"no prepared data set {name!r}: looked for {folder}/VERSION/dataset_info.json, "
            f"{folder}/CONFIG/VERSION/dataset_info.json and {data_dir}/dataset_info.json "
            "(built in: fashion_mnist; a folder of images: folder)"
        )
    if len(candidates) > 1:
        configs = ", ".join(f"{path}/{c.name}" for c in candidates)
        raise UsageError(f"{folder} has several configurations, name one: {configs}")
    versions = {c.name: c for c in _folders(candidates[0]) if _is_version(c)}
    if version and version not in versions:
        raise UsageError(f"{candidates[0]} has no version {version}: {', '.join(versions)}")
    return versions[version] if version else max(versions.values(), key=_version_key)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _is_version(folder: Path) -> bool:
    return (folder / "dataset_info.json").is_file()


def _info(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "dataset_info.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}/dataset_info.json cannot be read: {error}") from error


def _version_key(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in folder.name.split("."))


def _features(tfds: types.ModuleType, info: Any, folder: Path) -> tuple[str, str]:
    """Names of the image's and the label's feature."""
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
    except ValueError:  # TFDS knows only how many there are
        return tuple(map(str, range(label.num_classes)))


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

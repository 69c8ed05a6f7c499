"""Prepares a data set of TFDS in the array_record format, without TensorFlow.

    python train/prepare.py folder SRC DST      a folder of images, SRC/train/CLASS/IMAGE
    python train/prepare.py tfrecord SRC DST    a data set prepared as TFRecord, or the shards
                                                train-00000-of-01024 of Inception's and the TPU's
                                                ImageNet

The result is DST/NAME/VERSION; `--dataset NAME --data-dir DST` trains on it. Encoded images are
copied as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import shutil
import sys
import tempfile
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# As a script, this folder is on the path; the packages lie beside it.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import tqdm

from train.decoding import BadImageError
from train.errors import TrainingError, UsageError
from train.folders import FolderSource, open_folder
from train.tfrecords import read_records

_VERSION = "1.0.0"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_FORMAT = "array_record"
_SHARD_IMAGES = 2000  # about 200 MB of ImageNet
_SHARD = re.compile(r"(train|validation)-(\d{5})-of-(\d{5})")


@dataclasses.dataclass(frozen=True)
class Shard:
    """Records that make one file of a split."""

    split: str
    records: Iterable[bytes]


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        if options.what == "folder":
            target = prepare_folder(options.src, options.dst, options.name)
        else:
            target = convert(options.src, options.dst, options.name, options.label_offset)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was kept", file=sys.stderr)
        return 1
    print(f"{target} is ready: --dataset {target.parent.name} --data-dir {options.dst}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for what, default in (("folder", "images"), ("tfrecord", "the source's, or imagenet2012")):
        command = commands.add_parser(what)
        command.add_argument("src", type=Path, metavar="SRC")
        command.add_argument("dst", type=Path, metavar="DST")
        command.add_argument(
            "--name",
            default="images" if what == "folder" else None,
            help=f"name of the data set (default: {default})",
        )
    command.add_argument(
        "--label-offset",
        type=int,
        default=-1,
        help="added to the labels of train-00000-of-01024 and its like, where 0 is the background "
        "(default: %(default)s)",
    )
    return parser


def prepare_folder(src: Path, dst: Path, name: str = "images") -> Path:
    """Writes a folder of images as a data set of TFDS.

    Args:
        src: the folder, in the layout of `folders.open_folder`.
        dst: where to put NAME/1.0.0.
        name: what to call it: lower-case letters, digits and underscores.

    Returns:
        The new folder.

    Raises:
        UsageError: if the folder cannot be used or the result exists.
        TrainingError: if the result cannot be written.
    """
    tfds = _tfds()
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder")
    dataset = open_folder(src)
    sources = [dataset.train, dataset.test]
    assert all(isinstance(source, FolderSource) for source in sources)
    features = _features(tfds, dataset.classes)
    shards = [
        shard
        for source in sources
        if isinstance(source, FolderSource)
        for shard in _folder_shards(source, features)
    ]
    total = sum(len(source) for source in sources)
    with _new_folder(dst, name, _VERSION) as folder:
        lengths = _write(folder, name, shards, total)
        _write_metadata(tfds, folder, name, features, lengths)
    return dst / name / _VERSION


def _folder_shards(source: FolderSource, features: Any) -> Iterator[Shard]:
    split = "test" if source.split == "test" else "validation"
    split = "train" if source.split == "train" else split
    for start in range(0, len(source), _SHARD_IMAGES):
        indices = range(start, min(start + _SHARD_IMAGES, len(source)))
        yield Shard(split, _folder_records(source, indices, features))


def _folder_records(source: FolderSource, indices: range, features: Any) -> Iterator[bytes]:
    for index in indices:
        try:
            example = source[index]
        except BadImageError as error:
            raise UsageError(f"{source.root}/{error.name} cannot be read: {error}") from error
        assert isinstance(example.image, bytes)
        yield _serialize(features, example.image, example.label, example.name)


def convert(src: Path, dst: Path, name: str | None = None, label_offset: int = -1) -> Path:
    """Writes TFRecord files as a data set of TFDS in the array_record format.

    Args:
        src: a version's folder of TFDS, or a folder of `train-00000-of-01024` and
            `validation-00000-of-00128` with the features image/encoded, image/class/label and, if
            they have them, image/class/synset and image/filename.
        dst: where to put NAME/VERSION.
        name: what to call it; the source's name or "imagenet2012" by default.
        label_offset: added to the labels of the second form.

    Returns:
        The new folder.

    Raises:
        UsageError: if the files are damaged or incomplete, or the result exists.
        TrainingError: if the result cannot be written.
    """
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder")
    if (src / "dataset_info.json").is_file():
        return _convert_prepared(src, dst, name)
    return _convert_shards(src, dst, name or "imagenet2012", label_offset)


def _convert_prepared(src: Path, dst: Path, name: str | None) -> Path:
    """Copies the records file by file and changes what dataset_info.json says of the format."""
    tfds = _tfds()
    try:
        info = tfds.builder_from_directory(str(src)).info
        metadata = json.loads((src / "dataset_info.json").read_text())
    except Exception as error:  # of whatever kind: it is the metadata that cannot be read
        raise UsageError(f"{src} is no prepared data set that TFDS can read: {error}") from error
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UsageError(f"{src} was prepared as {info.file_format.value}, not as tfrecord")
    name = name or metadata["name"]
    config = metadata.get("configName", "")
    files = [
        (split, Path(path), length)
        for split, split_info in info.splits.items()
        for path, length in zip(split_info.filepaths, split_info.shard_lengths, strict=True)
    ]
    _require([path for _, path, _ in files])
    shards = [Shard(split, _counted(path, length)) for split, path, length in files]
    total = sum(length for _, _, length in files)
    with _new_folder(dst, f"{name}/{config}" if config else name, metadata["version"]) as folder:
        _require_space(folder, [path for _, path, _ in files])
        _write(folder, name, shards, total)
        records = {path for _, path, _ in files}
        for path in src.iterdir():
            if path.is_file() and path not in records:
                shutil.copyfile(path, folder / path.name)
        metadata.update(name=name, fileFormat=_FORMAT)
        for split in metadata["splits"]:
            split["filepathTemplate"] = _TEMPLATE
        (folder / "dataset_info.json").write_text(json.dumps(metadata, indent=2) + "\n")
    return dst / name / config / metadata["version"]


def _counted(path: Path, expected: int) -> Iterator[bytes]:
    count = 0
    for record in read_records(path):
        yield record
        count += 1
    if count != expected:
        raise UsageError(f"{path} has {count} records, dataset_info.json says {expected}")


def _convert_shards(src: Path, dst: Path, name: str, label_offset: int) -> Path:
    """Reads Inception's features and writes those of TFDS."""
    tfds = _tfds()
    files = _shard_files(src)
    labels = _Labels(tfds, label_offset)
    shards = [Shard(split, labels.records(path)) for split, path in files]
    with _new_folder(dst, name, _VERSION) as folder:
        _require_space(folder, [path for _, path in files])
        lengths = _write(folder, name, shards, None)
        _write_metadata(tfds, folder, name, _features(tfds, labels.names()), lengths)
    return dst / name / _VERSION


def _shard_files(src: Path) -> list[tuple[str, Path]]:
    """The shards in `src` or its folders "train" and "validation", in order and complete."""
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
    return [(split, path) for split in sorted(found) for _, path in sorted(found[split].items())]


class _Labels:
    """Reads records of the form of Inception's ImageNet and remembers the classes' names."""

    def __init__(self, tfds: types.ModuleType, offset: int) -> None:
        text = tfds.features.Text()
        label = tfds.features.Scalar(np.int64)
        # A slash in a record's key is a level of the features.
        self._source = tfds.features.FeaturesDict(
            {
                "image": {
                    "encoded": text,
                    "class": {"label": label, "synset": text},
                    "filename": text,
                }
            }
        )
        self._target = _features(tfds, None)
        self._offset = offset
        self._synsets: dict[int, str] = {}

    def records(self, path: Path) -> Iterator[bytes]:
        """Yields the records of a shard in the form of TFDS."""
        for number, record in enumerate(read_records(path)):
            where = f"{path}, record {number}"
            try:
                image = self._source.deserialize_example_np(record)["image"]
            except Exception as error:  # protobuf's, not ours to know
                raise UsageError(f"{where} is no tf.train.Example: {error}") from error
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
            yield _serialize(self._target, image["encoded"], label, name)

    def _remember(self, label: int, synset: bytes, where: str) -> None:
        name = synset.decode(errors="replace")
        if self._synsets.setdefault(label, name) != name:
            raise UsageError(f"{where}: label {label} is {name!r} and {self._synsets[label]!r}")

    def names(self) -> tuple[str, ...]:
        """The classes in the order of their labels."""
        count = max(self._synsets, default=-1) + 1
        return tuple(self._synsets.get(label) or str(label) for label in range(count))


def _tfds() -> types.ModuleType:
    try:
        import array_record.python.array_record_module
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise UsageError(f'{error}: install it with pip install -e ".[train]"') from error
    return tfds


def _features(tfds: types.ModuleType, classes: tuple[str, ...] | None) -> Any:
    """The features of the result; without names, of records whose classes are not known yet."""
    label = tfds.features.Scalar(np.int64) if classes is None else None
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": label or tfds.features.ClassLabel(names=list(classes or ())),
            "file_name": tfds.features.Text(),
        }
    )


def _serialize(features: Any, image: bytes, label: int, name: str) -> bytes:
    import io

    example = {"image": io.BytesIO(image), "label": label, "file_name": name}
    return features.serialize_example(features.encode_example(example))


@contextlib.contextmanager
def _new_folder(dst: Path, name: str, version: str) -> Iterator[Path]:
    """Yields a temporary folder that becomes dst/name/version unless something goes wrong."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*(/[\w.+-]+)?", name):
        raise UsageError(f"--name {name}: lower-case letters, digits and underscores are allowed")
    target = dst / name / version
    if target.exists():
        raise UsageError(f"{target} exists already: remove it or choose another DST")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=target.parent))
    except OSError as error:
        raise UsageError(f"{target} cannot be created: {error.strerror}") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def _require(paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UsageError(f"{len(missing)} of {len(paths)} files are missing, such as {missing[0]}")


def _require_space(folder: Path, files: list[Path]) -> None:
    needed, free = sum(path.stat().st_size for path in files), shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(f"{folder.parent} has {free / 1e9:.1f} GB free of {needed / 1e9:.1f}")


def _write(
    folder: Path, name: str, shards: list[Shard], total: int | None
) -> dict[str, list[tuple[int, int]]]:
    """Writes the files; returns each one's number of records and bytes by split."""
    counts = {shard.split: 0 for shard in shards}
    for shard in shards:
        counts[shard.split] += 1
    lengths: dict[str, list[tuple[int, int]]] = {split: [] for split in counts}
    with tqdm.tqdm(total=total, unit=" images", disable=None) as progress:
        for shard in shards:
            number = f"{len(lengths[shard.split]):05d}-of-{counts[shard.split]:05d}"
            path = folder / f"{name}-{shard.split}.{_FORMAT}-{number}"
            lengths[shard.split].append(_write_shard(path, shard.records, progress))
    return lengths


def _write_shard(path: Path, records: Iterable[bytes], progress: tqdm.tqdm) -> tuple[int, int]:
    """Writes one file and looks whether it holds what was written."""
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    count = size = 0
    try:
        writer = ArrayRecordWriter(str(path), "group_size:1")  # each record readable by itself
        for record in records:
            writer.write(record)
            count, size = count + 1, size + len(record)
            progress.update()
        writer.close()
        reader = ArrayRecordReader(str(path))
        written = reader.num_records()
        reader.close()
    except (UsageError, KeyboardInterrupt):
        raise
    except Exception as error:  # array_record's errors are RuntimeError and its like
        reason = str(error).partition("\n")[0]
        raise TrainingError(f"{path.parent} cannot be written, disk full? {reason}") from error
    if written != count:
        raise TrainingError(f"{path} holds {written} of {count} records, disk full?")
    return count, size


def _write_metadata(
    tfds: types.ModuleType,
    folder: Path,
    name: str,
    features: Any,
    lengths: dict[str, list[tuple[int, int]]],
) -> None:
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[count for count, _ in files],
            num_bytes=sum(size for _, size in files),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=folder,
                template=_TEMPLATE,
                dataset_name=name,
                split=split,
                filetype_suffix=_FORMAT,
            ),
        )
        for split, files in lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        version=_VERSION,
        split_infos=splits,
        filename_template=_TEMPLATE,
        supervised_keys=("image", "label"),
        check_data=False,
    )


if __name__ == "__main__":
    sys.exit(main())

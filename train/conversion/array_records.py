"""Writes data sets of TFDS in its array_record format, without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from inception_jax.outputs import umask
from train.errors import TrainingError, UsageError

FORMAT = "array_record"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
VERSION = "1.0.0"

Features = tfds.features.FeaturesDict

Lengths = dict[str, list[tuple[int, int]]]
"""By split: number of records and of bytes of each file."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """Records that make one file of a split."""

    split: str
    records: Iterable[bytes]


def image_features(classes: tuple[str, ...] | None) -> Features:
    """Image, label and file name; without classes, a label whose classes are not known yet."""
    label = (
        tfds.features.Scalar(np.int64)
        if classes is None
        else tfds.features.ClassLabel(names=list(classes))
    )
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    return Features({"image": image, "label": label, "file_name": tfds.features.Text()})


def serialize(features: Features, image: bytes, label: int, name: str) -> bytes:
    """A record of `image_features`; the encoded image stays as it is."""
    example = {"image": io.BytesIO(image), "label": label, "file_name": name}
    return features.serialize_example(features.encode_example(example))


@contextlib.contextmanager
def new_folder(dst: Path, name: str, version: str) -> Iterator[Path]:
    """Yields a temporary folder that becomes dst/name/version unless something goes wrong.

    Raises:
        UsageError: if the name cannot be one, or the folder exists or cannot be created.
    """
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
        temporary.chmod(0o777 & ~umask())
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(folder: Path, name: str, shards: list[Shard], total: int | None) -> Lengths:
    """Writes the shards in their order and shows the progress.

    Args:
        folder: where to.
        name: the data set's name.
        shards: what to write.
        total: number of records, if known.

    Raises:
        TrainingError: if a file cannot be written.
    """
    counts = {shard.split: 0 for shard in shards}
    for shard in shards:
        counts[shard.split] += 1
    lengths: Lengths = {split: [] for split in counts}
    with tqdm.tqdm(total=total, unit=" images", disable=None) as progress:
        for shard in shards:
            number = f"{len(lengths[shard.split]):05d}-of-{counts[shard.split]:05d}"
            path = folder / f"{name}-{shard.split}.{FORMAT}-{number}"
            lengths[shard.split].append(_write_shard(path, shard.records, progress))
    return lengths


def _write_shard(path: Path, records: Iterable[bytes], progress: tqdm.tqdm) -> tuple[int, int]:
    """Writes one file and looks whether it holds what was written."""
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


def write_metadata(
    folder: Path,
    name: str,
    features: Features,
    lengths: Lengths,
) -> None:
    """Writes dataset_info.json, features.json and the classes' names."""
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[count for count, _ in files],
            num_bytes=sum(size for _, size in files),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=tfds.core.Path(folder),
                template=TEMPLATE,
                dataset_name=name,
                split=split,
                filetype_suffix=FORMAT,
            ),
        )
        for split, files in lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        version=VERSION,
        split_infos=splits,
        filename_template=TEMPLATE,
        supervised_keys=("image", "label"),
        check_data=False,
    )

"""Converts a folder of images into a TFDS data set in the array_record format."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from inception_jax.folders import passed_over_note
from inception_jax.notes import printable
from train.conversion import tfds_writer
from train.conversion.tfds_writer import Features, Shards
from train.data.bad_images import BadImageError
from train.data.image_folder import FolderSource, list_folder
from train.errors import UsageError

_SHARD_IMAGES = 2000  # about 200 MB of ImageNet


def convert_folder(src: Path, dst: Path, name: str = "images") -> Path:
    """Converts a folder of images into a TFDS data set.

    Args:
        src: path of the folder, which has training and test images, see `image_folder.list_folder`.
        dst: path of the folder in which NAME/1.0.0 is written.
        name: name of the data set: lower-case letters, digits and underscores.

    Returns:
        The path of the new folder NAME/1.0.0.

    Raises:
        UsageError: if `src` or one of its images cannot be used, or if the result exists.
        TrainingError: if the result cannot be written.
    """
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder")
    train, test, passed_over = list_folder(src)
    if test is None:
        raise UsageError(f"{src} has no folder of test images: {src}/val/CLASS is expected")
    sources = (train, test)
    if note := passed_over_note(printable(src), len(train) + len(test), passed_over):
        print(f"note: {note}", file=sys.stderr)
    features = tfds_writer.image_features(sources[0].classes)
    shards: Shards = {
        "validation" if source.split == "val" else source.split: [
            _records(source, range(len(source))[start : start + _SHARD_IMAGES], features)
            for start in range(0, len(source), _SHARD_IMAGES)
        ]
        for source in sources
    }
    with tfds_writer.new_folder(dst, name, tfds_writer.VERSION) as folder:
        lengths = tfds_writer.write(folder, name, shards, total=sum(map(len, sources)))
        tfds_writer.write_metadata(folder, name, features, lengths)
    return dst / name / tfds_writer.VERSION


def _records(source: FolderSource, indices: range, features: Features) -> Iterator[bytes]:
    for index in indices:
        try:
            example = source[index]
        except BadImageError as error:
            raise UsageError(f"{source.root}/{error.name} cannot be read: {error}") from error
        assert isinstance(example.image, bytes)
        yield tfds_writer.serialize(features, example.image, example.label, example.name)

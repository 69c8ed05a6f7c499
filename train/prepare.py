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
import sys
from collections.abc import Iterator
from pathlib import Path

# As a script, this folder is on the path; the packages lie beside it.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

try:
    from train.conversion import array_records
    from train.conversion.array_records import Features, Shard
    from train.conversion.convert import convert
    from train.data.bad_images import BadImageError
    from train.data.image_folder import FolderSource, list_folder
    from train.errors import TrainingError, UsageError
except ModuleNotFoundError as error:
    sys.exit(f"{error}. Install what training needs: pip install -e '.[train]'")

_SHARD_IMAGES = 2000  # about 200 MB of ImageNet


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
    if not src.is_dir():
        raise UsageError(f"{src}: no such folder")
    sources = list_folder(src)
    features = array_records.image_features(sources[0].classes)
    shards = [shard for source in sources for shard in _shards(source, features)]
    with array_records.new_folder(dst, name, array_records.VERSION) as folder:
        total = sum(len(source) for source in sources)
        lengths = array_records.write(folder, name, shards, total)
        array_records.write_metadata(folder, name, features, lengths)
    return dst / name / array_records.VERSION


def _shards(source: FolderSource, features: Features) -> Iterator[Shard]:
    split = "validation" if source.split == "val" else source.split
    for start in range(0, len(source), _SHARD_IMAGES):
        indices = range(start, min(start + _SHARD_IMAGES, len(source)))
        yield Shard(split, _records(source, indices, features))


def _records(source: FolderSource, indices: range, features: Features) -> Iterator[bytes]:
    for index in indices:
        try:
            example = source[index]
        except BadImageError as error:
            raise UsageError(f"{source.root}/{error.name} cannot be read: {error}") from error
        assert isinstance(example.image, bytes)
        yield array_records.serialize(features, example.image, example.label, example.name)


if __name__ == "__main__":
    sys.exit(main())

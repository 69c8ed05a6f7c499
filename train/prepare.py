"""Prepares a TFDS data set in the array_record format, without TensorFlow.

    python train/prepare.py folder SRC DST      a folder of images, SRC/train/CLASS/IMAGE
    python train/prepare.py tfrecord SRC DST    a TFDS data set prepared as TFRecord, or ImageNet's
                                                shards train-00000-of-01024 as made for the
                                                Inception and TPU code

The result is DST/NAME/VERSION; `--dataset NAME --data-dir DST` trains on it. Encoded images are
copied unchanged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# `python train/prepare.py` puts train/ on the path; the packages lie beside it.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

try:
    from train.conversion.from_folder import convert_folder
    from train.conversion.from_tfrecords import convert_tfrecords
    from train.errors import TrainingError, UsageError
except ModuleNotFoundError as error:
    sys.exit(f"{error}. Install what training needs: pip install -e '.[train]'")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        if options.what == "folder":
            target = convert_folder(options.src, options.dst, options.name)
        else:
            target = convert_tfrecords(options.src, options.dst, options.name, options.label_offset)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was kept", file=sys.stderr)
        return 1
    name = target.parent.relative_to(options.dst)  # with the configuration, if it has one
    print(f"{target} is ready: --dataset {name} --data-dir {options.dst}")
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


if __name__ == "__main__":
    sys.exit(main())

"""Prepares a TFDS data set in the array_record format, without TensorFlow.

    python train/prepare.py folder SRC DST      from a folder of images, SRC/train/CLASS/IMAGE
    python train/prepare.py tfrecord SRC DST    from a TFDS data set prepared as TFRecord, or from
                                                ImageNet's shards train-00000-of-01024, in the
                                                layout of TensorFlow's Inception and TPU code

The result is the folder DST/NAME/VERSION, for training with `--dataset NAME --data-dir DST`.
Encoded images are copied unchanged.
"""

from __future__ import annotations

import sys
from pathlib import Path

# `python train/prepare.py` puts train/ on the path, but the packages are in the parent folder.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from inception_jax import extras
from inception_jax.interrupts import run_command
from inception_jax.nearest import did_you_mean
from inception_jax.parser import Parser, versions, whole_number
from train.errors import TrainingError, UsageError

_PROGRAM = "python train/prepare.py"
_WHAT = {
    "folder": "a folder of images, SRC/train/CLASS/IMAGE and SRC/val/CLASS/IMAGE",
    "tfrecord": "a TFDS data set in TFRecord files, or ImageNet's shards train-00000-of-01024",
}
_OTHER_WHAT = {
    "images": "folder",
    "imagefolder": "folder",
    "tfrecords": "tfrecord",
    "tfds": "tfrecord",
    "imagenet": ("tfrecord", "folder"),
}
_OTHER_OPTIONS = {"dataset": "name", "dataset-name": "name", "offset": "label-offset"}
_EXAMPLES = f"""examples:
  {_PROGRAM} folder photos prepared --name photos
  {_PROGRAM} tfrecord imagenet-tfrecords prepared
  python train/main.py --dataset photos --data-dir prepared"""


def main(argv: list[str] | None = None) -> int:
    """Prepares the data set that the command line names.

    Args:
        argv: arguments; None for those of the process, `sys.argv[1:]`.

    Returns:
        The exit code: 0 after success; 2 for bad usage; 1 for another error; 130 after Ctrl-C; 143
        after SIGTERM. No unfinished data set is left behind.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _run(words))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(versions("inception_jax's train/prepare.py"))
        return 0
    if words[0] not in _WHAT:
        hint = did_you_mean(words[0], _WHAT, _OTHER_WHAT) or f"; there is {' or '.join(_WHAT)}"
        print(f"error: unknown source {words[0]!r}{hint}", file=sys.stderr)
        return 2
    options = _parser(words[0]).parse_args(words[1:])
    try:
        if words[0] == "folder":
            from train.conversion.from_folder import convert_folder

            target = convert_folder(options.src, options.dst, options.name)
        else:
            from train.conversion.from_tfrecords import convert_tfrecords

            target = convert_tfrecords(options.src, options.dst, options.name, options.label_offset)
    except BrokenPipeError:
        raise
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {extras.missing(error, 'prepare.py')}", file=sys.stderr)
        return 1
    name = target.parent.relative_to(options.dst)  # with the configuration, if it has one
    print(f"{target} is ready: --dataset {name} --data-dir {options.dst}")
    return 0


def _help() -> str:
    kinds = "\n".join(f"  {name:10}{text}" for name, text in _WHAT.items())
    return f"""usage: {_PROGRAM} {{{",".join(_WHAT)}}} SRC DST [--name NAME]

Prepares a TFDS data set in the array_record format, without TensorFlow, in DST/NAME/VERSION.
Encoded images are copied unchanged. SRC is one of:

{kinds}

{_EXAMPLES}"""


def _parser(what: str) -> Parser:
    parser = Parser(
        prog=f"{_PROGRAM} {what}",
        description=f"Prepares {_WHAT[what]}.",
        epilog=_EXAMPLES,
        other_words=_OTHER_OPTIONS,
    )
    parser.add_argument("src", type=Path, metavar="SRC", help="folder to read")
    parser.add_argument("dst", type=Path, metavar="DST", help="folder for NAME/VERSION")
    folder = what == "folder"
    default = "images" if folder else "name of the TFDS data set, or imagenet2012"
    parser.add_argument(
        "--name",
        default="images" if folder else None,
        help=f"name of the data set; default: {default}",
    )
    if not folder:
        parser.add_argument(
            "--label-offset",
            type=whole_number,
            default=-1,
            metavar="N",
            help="number to add to the labels of shards such as train-00000-of-01024, where "
            "label 0 is the background; default: %(default)s",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())

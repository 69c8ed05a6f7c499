"""`inception-jax fid`: metrics of two folders of images."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from inception_jax.cli.arguments import positive_int
from inception_jax.metrics import report
from inception_jax.metrics.extractor import DIMS, Extractor
from inception_jax.metrics.origin import short
from inception_jax.metrics.presets import DEFAULT, PRESETS
from inception_jax.metrics.resizing import RESIZES
from inception_jax.metrics.scores import open_all
from inception_jax.metrics.statistics_files import LAYOUTS, check_layout
from inception_jax.nearest import did_you_mean
from inception_jax.outputs import atomic_write, check_target
from inception_jax.parser import whole_number

EXAMPLES = """
inception-jax fid generated/ real/
inception-jax fid generated/ real/ --metrics fid,kid --json result.json
inception-jax fid samples.npz VIRTUAL_imagenet256_labeled.npz --preset adm
inception-jax fid real/ --save-stats real.npz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    source = "folder of images, .npz file of statistics or images (arr_0), or .npy file of images"
    parser.add_argument("a", metavar="A", help=f"{source}: the generated images")
    parser.add_argument("b", metavar="B", nargs="?", help=f"{source}: the real ones")
    parser.add_argument(
        "--weights", metavar="FILE", help="weight file; default: pytorch-fid's published one"
    )
    parser.add_argument(
        "--metrics",
        type=_metrics,
        metavar="LIST",
        help=f"some of {','.join(report.METRICS)}, with commas between them; is needs no B, sfid "
        "needs --preset adm; default: fid, and of adm all that it prints",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default=DEFAULT,
        help="the program whose numbers are computed; default: %(default)s",
    )
    parser.add_argument(
        "--resize",
        choices=RESIZES,
        help="how images are resized to 299x299 pixels; default: the preset's",
    )
    parser.add_argument(
        "--dims",
        type=whole_number,
        choices=DIMS,
        default=2048,
        help="number of features; default: %(default)s",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=50,
        metavar="N",
        help="images at once; default: %(default)s",
    )
    parser.add_argument("--recursive", action="store_true", help="read subfolders too")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out files that are no whole images"
    )
    parser.add_argument(
        "--save-stats", metavar="FILE.npz", help="write the statistics of A, without a B"
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="whose program can read the statistics that are written; default: %(default)s",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write everything about the result as JSON; -: to standard output, and nothing else",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")


def run(args: argparse.Namespace) -> int:
    """Prints the metrics, or writes the statistics of A."""
    _check(args)
    extractor = Extractor(
        args.weights or True,
        preset=args.preset,
        dims=args.dims,
        resize=args.resize,
        batch_size=args.batch_size,
        recursive=args.recursive or None,
        skip_unreadable=args.skip_unreadable,
        progress=not args.no_progress,
    )
    if args.save_stats:
        (opened,) = open_all(extractor, args.a)
        extractor.statistics(opened).save(args.save_stats, layout=args.layout)
        print(f"wrote {args.save_stats}")
        return 0
    a, b = (source and extractor.open(source) for source in (args.a, args.b))
    names = args.metrics
    if names is None:
        wanted = extractor.preset.default_metrics
        names = report.possible(wanted, a, b, extractor.preset)
        if left_out := [name for name in wanted if name not in names]:
            print(f"note: left out, without what they need: {', '.join(left_out)}", file=sys.stderr)
    ours, theirs = report.sets_of(extractor, names, a, b)
    values = report.measured(names, ours, theirs, extractor.preset)
    if args.json != "-":
        weights = short(extractor.origin.weights)
        print(f"preset  {extractor.preset.name}, {extractor.resize}, weights {weights}")
        print(*report.lines(values), sep="\n")
    if args.json:
        _write(args.json, json.dumps(report.record(extractor, values, ours, theirs), indent=2))
    return 0


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text)
        return
    with atomic_write(Path(path)) as partial:
        partial.write_text(f"{text}\n")


def _check(args: argparse.Namespace) -> None:
    """Refuses arguments that do not go together, before anything is opened."""
    if args.json and args.json != "-":
        check_target(args.json, (".json",), what="results")
    if args.save_stats:
        check_target(args.save_stats, (".npz",), what="statistics")
        check_layout(args.layout, spatial="sfid" in PRESETS[args.preset].metrics)
        for option, value in (("--json", args.json), ("--metrics", args.metrics)):
            if value:
                raise ValueError(f"--save-stats computes no metric: leave {option} out")
        if args.b:
            raise ValueError(f"--save-stats writes the statistics of one input: leave {args.b} out")
    elif args.layout != LAYOUTS[0]:
        raise ValueError("--layout is of the file that --save-stats writes")
    elif not args.b and args.metrics != ("is",):
        raise ValueError("a second input is needed: the images to compare with")
    elif args.b and args.metrics == ("is",):
        raise ValueError(f"the Inception Score is of one set of images: leave {args.b} out")
    if "is" in (args.metrics or ()) and args.dims != 2048:
        raise ValueError("the Inception Score needs logits, which only --dims 2048 has")


def _metrics(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in report.METRICS]
    if unknown:
        known = report.METRICS
        hint = did_you_mean(unknown[0], known, {"precision": "pr", "recall": "pr", "isc": "is"})
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}{hint}")
    return names

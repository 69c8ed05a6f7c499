"""`inception-jax fid`: metrics of two folders of images."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from inception_jax.cli.arguments import positive_int
from inception_jax.metrics.extractor import DIMS, Extractor
from inception_jax.metrics.kernel import kernel_distance
from inception_jax.metrics.manifolds import manifold_precision_recall
from inception_jax.metrics.metric_values import MeanStd
from inception_jax.metrics.presets import DEFAULT, PRESETS
from inception_jax.metrics.resizing import RESIZES
from inception_jax.metrics.scores import check_count, fid_of_statistics, open_all, score_of_features
from inception_jax.metrics.statistics import Statistics
from inception_jax.nearest import did_you_mean
from inception_jax.outputs import check_target
from inception_jax.parser import whole_number

METRICS = ("fid", "kid", "is", "pr")

EXAMPLES = """
inception-jax fid generated/ real/
inception-jax fid generated/ real/ --metrics fid,kid
inception-jax fid real/ --save-stats real.npz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    source = "folder of images, read as pytorch-fid does, or .npz file of statistics"
    parser.add_argument("a", metavar="A", help=f"{source}: the generated images")
    parser.add_argument("b", metavar="B", nargs="?", help=f"{source}: the real ones")
    parser.add_argument(
        "--weights", metavar="FILE", help="weight file; default: pytorch-fid's published one"
    )
    parser.add_argument(
        "--metrics",
        type=_metrics,
        default=("fid",),
        metavar="LIST",
        help=f"some of {','.join(METRICS)}, with commas between them; is needs no B; default: fid",
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
        extractor.statistics(opened).save(args.save_stats)
        print(f"wrote {args.save_stats}")
        return 0
    per_image = set(args.metrics) != {"fid"}
    opened = [extractor.open(source) for source in (args.a, args.b) if source]
    if "is" in args.metrics:
        check_count(opened[0], 10, "the Inception Score, a mean of ten parts,")
    opened = open_all(
        extractor, *opened, per_image=per_image, least=4 if "pr" in args.metrics else 2
    )
    gather = extractor.features if per_image else extractor.statistics
    sets = [gather(source) for source in opened]
    for metric in args.metrics:
        print(_LINES[metric](*sets))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses arguments that do not go together, before anything is opened."""
    if args.save_stats:
        check_target(args.save_stats, (".npz",), what="statistics")
        if args.b:
            raise ValueError(f"--save-stats writes the statistics of one input: leave {args.b} out")
    elif not args.b and args.metrics != ("is",):
        raise ValueError("a second input is needed: the images to compare with")
    elif args.b and args.metrics == ("is",):
        raise ValueError(f"the Inception Score is of one set of images: leave {args.b} out")
    if "is" in args.metrics and args.dims != 2048:
        raise ValueError("the Inception Score needs logits, which only --dims 2048 has")


def _fid(a: Any, b: Any) -> str:
    statistics = (x if isinstance(x, Statistics) else x.statistics for x in (a, b))
    return f"FID  {fid_of_statistics(*statistics):.6g}"


def _kid(a: Any, b: Any) -> str:
    return f"KID  {_spread(kernel_distance(a.pooled, b.pooled))}"


def _score(a: Any, *_: Any) -> str:
    return f"IS  {_spread(score_of_features(a))}"


def _precision_recall(a: Any, b: Any) -> str:
    found = manifold_precision_recall(a.pooled, b.pooled)
    return f"precision  {found.precision:.6g}\nrecall  {found.recall:.6g}"


_LINES: dict[str, Callable[..., str]] = {
    "fid": _fid,
    "kid": _kid,
    "is": _score,
    "pr": _precision_recall,
}


def _spread(found: MeanStd) -> str:
    return f"{found.mean:.6g}" + ("" if math.isnan(found.std) else f" ± {found.std:.3g}")


def _metrics(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        hint = did_you_mean(unknown[0], METRICS, {"precision": "pr", "recall": "pr"})
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(METRICS)}{hint}")
    return names

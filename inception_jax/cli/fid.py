"""`inception-jax fid`: computes metrics of generated and real images, such as FID."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from inception_jax.cli.arguments import positive_int
from inception_jax.metrics import report
from inception_jax.metrics.extractor import DIMS, Extractor
from inception_jax.metrics.origin import NETWORK, Origin, short
from inception_jax.metrics.presets import DEFAULT, PRESETS
from inception_jax.metrics.resizing import RESIZES
from inception_jax.metrics.scores import open_all
from inception_jax.metrics.statistics_files import LAYOUTS, check_layout
from inception_jax.nearest import did_you_mean
from inception_jax.outputs import atomic_write, check_target
from inception_jax.parser import whole_number

_OF_FID_NETWORK = {"is", "sfid"}  # these need logits or spatial features of FID's network

EXAMPLES = """
inception-jax fid generated/ real/
inception-jax fid generated/ real/ --metrics fid,kid --json result.json
inception-jax fid samples.npz VIRTUAL_imagenet256_labeled.npz --preset adm
inception-jax fid step1000/ step2000/ step3000/ real.npz
inception-jax fid real/ --save-stats real.npz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="one or more sets of generated images, then the set of real images; each is a folder "
        "or .zip of images, an .npz of statistics, features or images (arr_0), an .npy of images, "
        "or .tfrecord or .array_record files (* for several)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weight file; default: pytorch-fid's published one, or that of the --features network",
    )
    parser.add_argument(
        "--features",
        metavar="NAME",
        help="network to use instead of FID's: a name from `inception-jax list`, or a weight file "
        "or folder of a training run that names its network",
    )
    parser.add_argument(
        "--metrics",
        type=_metrics,
        metavar="LIST",
        help=f"some of {','.join(report.METRICS)}, separated by commas; `is` needs no real images; "
        "`sfid` needs --preset adm; default: fid, or with --preset adm every metric that ADM's "
        "program prints",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default=DEFAULT,
        help="program whose numbers are reproduced; default: %(default)s",
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
        help="images in a batch; default: %(default)s",
    )
    parser.add_argument("--recursive", action="store_true", help="read subfolders too")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="skip images that are damaged or cannot be read",
    )
    parser.add_argument(
        "--save-stats", metavar="FILE.npz", help="write the statistics of one source"
    )
    parser.add_argument(
        "--save-features",
        metavar="FILE.npz",
        help="write the features of one source, to compute metrics later; 12 kB per image",
    )
    parser.add_argument(
        "--bootstrap",
        type=positive_int,
        default=0,
        metavar="N",
        help="print a 95 %% interval of FID too, from N resamples of the generated images, such as "
        "100",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="layout of the file of --save-stats, named after the programs that read it; default: "
        "%(default)s",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the result, and how it was computed, as JSON; -: print only this JSON",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")


def run(args: argparse.Namespace) -> int:
    """Prints the metrics, or writes the statistics or features of one set of images."""
    _check(args)
    extractor = Extractor(
        args.weights or True,
        features=args.features,
        preset=args.preset,
        dims=args.dims,
        resize=args.resize,
        batch_size=args.batch_size,
        recursive=args.recursive or None,
        skip_unreadable=args.skip_unreadable,
        progress=not args.no_progress,
    )
    if args.save_stats or args.save_features:
        _save(extractor, args)
        return 0
    alone = args.metrics == ("is",) and len(args.sources) == 1
    *named, last = [(source, extractor.open(source)) for source in args.sources]
    generated, real = (dict([last]), None) if alone else (dict(named), last)
    names = args.metrics or _usual(args, extractor, generated, real)
    rows, records, ours, theirs = [], [], None, None
    sets = report.sets_of(extractor, names, generated, real, bootstrap=args.bootstrap)
    for ours, theirs in sets:
        values = report.measured(names, ours, theirs, extractor.preset, bootstrap=args.bootstrap)
        rows.append((ours.name, values))
        records.append(report.record(extractor, values, ours, theirs))
    assert ours is not None
    if args.json != "-":
        print(_origin(extractor.preset.name, report.origin_of(ours, theirs)))
        several = len(rows) > 1
        print(*(report.table(rows) if several else report.lines(rows[0][1])), sep="\n")
    if args.json:
        _write(args.json, json.dumps(records if len(records) > 1 else records[0], indent=2))
    return 0


def _usual(
    args: argparse.Namespace,
    extractor: Extractor,
    generated: dict[str, report.Opened],
    real: tuple[str, report.Opened] | None,
) -> list[str]:
    """Returns the names of the metrics that are computed without `--metrics`.

    These are the preset's default metrics. Metrics that cannot be computed from these sources are
    left out, and a note on standard error names them.

    Args:
        args: parsed arguments of the command.
        extractor: extractor that opened the sources.
        generated: each set of generated images, by its source.
        real: source and images of the real set; None: there is no real set.
    """
    preset, against = extractor.preset, real and real[1]
    left_out = [
        name
        for name in preset.default_metrics
        if (args.features and name in _OF_FID_NETWORK)
        or not all(report.possible([name], a, against, preset) for a in generated.values())
    ]
    if left_out:
        missing = ", ".join(left_out)
        print(f"note: skipped, because these sources do not allow it: {missing}", file=sys.stderr)
    return [name for name in preset.default_metrics if name not in left_out]


def _origin(preset: str, origin: Origin | None) -> str:
    if origin is None:
        return f"preset  {preset}; the files do not say how their features were computed"
    own = "" if origin.network == NETWORK else f"features of {origin.network}, "
    return f"preset  {own}{origin.preset}, {origin.resize}, weights {short(origin.weights)}"


def _save(extractor: Extractor, args: argparse.Namespace) -> None:
    (opened,) = open_all(extractor, *args.sources, per_image=bool(args.save_features))
    if not args.save_features:
        extractor.statistics(opened).save(args.save_stats, layout=args.layout)
        print(f"wrote {args.save_stats}")
        return
    features = extractor.features(opened)
    features.save(args.save_features)
    print(f"wrote {args.save_features}")
    if args.save_stats:
        features.statistics.save(args.save_stats, layout=args.layout)
        print(f"wrote {args.save_stats}")


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text)
        return
    with atomic_write(Path(path)) as partial:
        partial.write_text(f"{text}\n")


def _check(args: argparse.Namespace) -> None:
    """Checks the arguments before anything is opened.

    Raises:
        ValueError: if the arguments cannot be combined, or an output file cannot be written.
    """
    if args.json and args.json != "-":
        check_target(args.json, (".json",), what="results")
    if args.save_stats or args.save_features:
        _check_saving(args)
    elif args.layout != LAYOUTS[0]:
        raise ValueError("--layout needs --save-stats FILE.npz")
    elif len(args.sources) == 1 and args.metrics != ("is",):
        raise ValueError("a second input is needed: the real images to compare with")
    elif len(args.sources) > 1 and args.metrics == ("is",):
        left_out = " ".join(args.sources[1:])
        raise ValueError(f"the Inception Score takes one set of images: leave out {left_out}")
    if args.bootstrap and args.metrics and "fid" not in args.metrics:
        raise ValueError("--bootstrap is for FID: add fid to --metrics")
    if args.features and (args.dims != 2048 or args.resize):
        raise ValueError("--features sets its own dims and resize: leave out --dims and --resize")
    if args.features and (unfit := _OF_FID_NETWORK & set(args.metrics or ())):
        raise ValueError(f"{', '.join(sorted(unfit))} needs FID's network: leave out --features")
    if "is" in (args.metrics or ()) and args.dims != 2048:
        raise ValueError("the Inception Score needs logits, which only --dims 2048 has")


def _check_saving(args: argparse.Namespace) -> None:
    option = "--save-stats" if args.save_stats else "--save-features"
    for path, what in ((args.save_stats, "statistics"), (args.save_features, "features")):
        if path:
            check_target(path, (".npz",), what=what)
    if args.save_stats:
        check_layout(args.layout, spatial="sfid" in PRESETS[args.preset].metrics)
    unused = (("--json", args.json), ("--metrics", args.metrics), ("--bootstrap", args.bootstrap))
    for other, value in unused:
        if value:
            raise ValueError(f"{option} computes no metric: leave out {other}")
    if len(args.sources) > 1:
        left_out = " ".join(args.sources[1:])
        raise ValueError(f"{option} takes one source: leave out {left_out}")


def _metrics(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in report.METRICS]
    if unknown:
        known = report.METRICS
        hint = did_you_mean(unknown[0], known, {"precision": "pr", "recall": "pr", "isc": "is"})
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}{hint}")
    return names

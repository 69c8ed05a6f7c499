"""The command `inception-jax`: list, info, summary, convert, export, predict, draw, fid."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from inception_jax import serving
from inception_jax.analysis.summary import summary
from inception_jax.cli import draw, fid, predict
from inception_jax.create import model_for
from inception_jax.registry import UnknownModelError, list_models, model_info
from inception_jax.weights.convert import FORMATS, save_as
from inception_jax.weights.errors import WeightsError
from inception_jax.weights.published import PUBLISHED


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, or 2 after one line that says why."""
    args = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as of a process that SIGPIPE ends
    except (UnknownModelError, WeightsError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _show_warning(message: Any, *_: Any) -> None:
    print(f"note: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inception-jax", description="The Inception family.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "list", _list, "names of networks and of published weights")
    command.add_argument("pattern", nargs="?", default="*", help="such as 'inception*'")

    command = _command(commands, "info", _info, "what is known of a network or its weights")
    command.add_argument("name", help="a network or network.tag, see list")

    command = _command(commands, "summary", _summary, "a network's stages as a table")
    command.add_argument("name", help="a network or network.tag, see list")
    command.add_argument(
        "--image-size",
        type=_size,
        metavar="N|HxW",
        help="of the image, in pixels; default: the network's own",
    )

    command = _command(commands, "convert", _convert, "weights from any layout to another")
    command.add_argument("source", metavar="SRC", help="weight file")
    command.add_argument(
        "target",
        metavar="DST",
        help=".safetensors, .pth, or for Keras .weights.h5 or .h5",
    )
    command.add_argument("--arch", required=True, help="network or network.tag of SRC")
    command.add_argument(
        "--to",
        choices=FORMATS,
        help="whose layout; default: ours for .safetensors, reference_torch's for .pth, Keras' for "
        ".h5",
    )

    command = _command(commands, "export", _export, "a network as a program: ONNX or StableHLO")
    command.add_argument("name", help="a network or network.tag, see list")
    command.add_argument("--weights", help="weight file; default: the tag's published one")
    command.add_argument("--format", required=True, choices=serving.FORMATS, help="of the file")
    command.add_argument("-o", "--output", metavar="FILE", help="default: NAME.FORMAT")
    command.add_argument(
        "--image-size",
        type=_size,
        metavar="N|HxW",
        help="of the images, in pixels; default: the network's own",
    )
    command.add_argument(
        "--normalise",
        action="store_true",
        help="take RGB pixels as uint8 and normalise them inside the program",
    )
    command.add_argument(
        "--embedding", action="store_true", help="return the pooled features, not the logits"
    )

    command = _command(commands, "predict", predict.run, "the likeliest classes of images")
    predict.add_arguments(command)

    command = _command(commands, "draw", draw.run, "a network or a module of it as SVG")
    draw.add_arguments(command)

    command = _command(commands, "fid", fid.run, "FID and other metrics of two folders of images")
    fid.add_arguments(command)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], what: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    command.set_defaults(run=run)
    return command


def _size(text: str) -> tuple[int, int]:
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"must be N or HxW, not {text!r}")
    return int(sides[0]), int(sides[-1])


def _list(args: argparse.Namespace) -> int:
    names = list_models(args.pattern)
    for name in names:
        print(" ".join([name, *(x.partition(".")[2] for x in list_models(name, tags=True))]))
    tags = [] if names else list_models(args.pattern, tags=True)
    print("\n".join(tags), end="\n" if tags else "")
    if not names and not tags:
        print(f"error: no network is called {args.pattern!r}", file=sys.stderr)
        return 2
    return 0


def _info(args: argparse.Namespace) -> int:
    info = model_info(args.name)
    facts = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    facts["num_params"] = f"{info.num_params:,}"
    facts["readings"] = ", ".join(f"{k}={v!r}" for k, v in info.readings.items()) or "defaults"
    facts["features"] = "  ".join(
        f"{f.name} {f.channels} /{f.reduction}{' *' if f.tap else ''}" for f in info.feature_info
    )
    facts["aux_heads"] = ", ".join(info.aux_heads) or "none"
    if args.name in PUBLISHED:
        facts["weights"] = PUBLISHED[args.name].address
    width = max(map(len, facts))
    for name, value in facts.items():
        if value != "":
            print(f"{name:{width}}  {value}")
    return 0


def _summary(args: argparse.Namespace) -> int:
    print(summary(args.name, args.image_size))
    return 0


def _convert(args: argparse.Namespace) -> int:
    for note in save_as(model_for(args.arch, args.source), args.target, args.to):
        print(f"note: {note}")
    print(f"wrote {args.target}")
    return 0


def _export(args: argparse.Namespace) -> int:
    info = model_info(args.name)
    path = serving.check_target(args.output or f"{args.name}.{args.format}", args.format)
    size = serving.check_size(args.image_size or info.input_size, info.min_size)
    model = model_for(args.name, args.weights or True)
    serving.export(
        model,
        path,
        args.format,
        image_size=size,
        normalise=args.normalise,
        embedding=args.embedding,
    )
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

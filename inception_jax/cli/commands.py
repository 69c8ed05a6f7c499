"""Finds the command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import sys
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

from inception_jax import extras
from inception_jax.interrupts import run_command
from inception_jax.memory import keep_freed_memory
from inception_jax.nearest import did_you_mean
from inception_jax.parser import Parser, versions
from inception_jax.registry import UnknownModelError
from inception_jax.tpu import quiet_without_tpu

PROGRAM = "inception-jax"

COMMANDS = {
    "list": "list the networks and their published weights",
    "info": "show the facts about a network or its weights",
    "summary": "show a network's stages as a table",
    "inspect": "show what a weight file is, and which networks it fits",
    "certify": "compare a weight file's network with its PyTorch twin, stage by stage",
    "convert": "convert weights from one library's layout to another's",
    "export": "write a network as a program: ONNX or StableHLO",
    "predict": "print the most likely classes of images",
    "draw": "draw a network, or a module of it, as SVG",
    "fid": "compare sets of images: FID, KID, Inception Score, precision and recall",
}

# What other programs call these commands.
_OTHER_COMMANDS = {
    "classify": "predict",
    "infer": "predict",
    "inference": "predict",
    "test": "predict",
    "ls": "list",
    "models": "list",
    "list-models": "list",
    "show": "info",
    "describe": "info",
    "save": "convert",
    "onnx": "export",
    "plot": "draw",
    "kid": "fid",
    "metrics": "fid",
}

# What other programs call the options of these commands.
_OTHER_OPTIONS = {
    "model": "arch",
    "model-name": "arch",
    "network": "arch",
    "checkpoint": "weights",
    "ckpt": "weights",
    "initial-checkpoint": "weights",
    "pretrained": "weights",
    "img-size": "image-size",
    "input-size": "image-size",
    "size": "image-size",
    "resolution": "image-size",
    "topk": "top",
    "class-map": "classes",
    "labels": "classes",
    "class-names": "classes",
    "out": ("output", "csv"),
    "normalize": "normalise",
    "batch": "batch-size",
    "format": ("format", "to"),
    "gradcam": "explain",
    "heatmap": "explain",
    "layer": ("module", "stage"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: that of the command, usually 0; 2 after an error, which is printed in one
        line; 130 after Ctrl-C; 143 after SIGTERM; 141 if the reader of standard output has stopped
        reading.
    """
    quiet_without_tpu()
    if argv is None:  # not called by another program, whose memory settings this would change
        keep_freed_memory()
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _run(words))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        if len(words) > 1 and words[0] == "help" and words[1] in COMMANDS:
            return _run([words[1], "--help"])
        print(_help())
        return 0
    if words[0] in ("-V", "--version", "version"):
        print(versions(PROGRAM))
        return 0
    if words[0] not in COMMANDS:
        what = "option" if words[0].startswith("-") else "command"
        hint = did_you_mean(words[0], COMMANDS, _OTHER_COMMANDS)
        return _fail(f"unknown {what} {words[0]!r}{hint or f'; there is {_either()}'}")
    try:
        # Imported only now, so that no other command's libraries are loaded.
        module = importlib.import_module(f"inception_jax.cli.{words[0]}")
        args = _parser(words[0], module).parse_args(words[1:])
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            # Pillow warns about images that are still below the limit of `images.read`.
            warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
            return module.run(args)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _fail(_described(error))
    except (UnknownModelError, ValueError) as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(extras.missing(error, f"`{words[0]}`"))


def _parser(name: str, module: Any) -> Parser:
    what = COMMANDS[name]
    parser = Parser(
        prog=f"{PROGRAM} {name}",
        description=what[0].upper() + what[1:] + ".",
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(module.EXAMPLES).strip(), "  "),
        other_words=_OTHER_OPTIONS,
    )
    module.add_arguments(parser)
    return parser


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    return f"""usage: {PROGRAM} COMMAND ...

The Inception family in JAX, with the same outputs as the published code.

commands:
{commands}

examples:
  {PROGRAM} list "inception*"
  {PROGRAM} predict cat.jpg --arch inception_v3.tf_in1k
  {PROGRAM} predict photos/ --weights runs/xception-fashion_mnist

{PROGRAM} COMMAND --help shows a command's options, {PROGRAM} --version the versions.
Networks are trained from a checkout: python train/main.py --help"""


def _either() -> str:
    *most, last = COMMANDS
    return f"{', '.join(most)} or {last}"


def _described(error: OSError) -> str:
    """Returns the message of a system error, without the error number."""
    if error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _show_warning(message: Any, *_: Any) -> None:
    print(f"note: {message}", file=sys.stderr)

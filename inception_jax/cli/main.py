"""Finds the command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from inception_jax.registry import UnknownModelError

COMMANDS = {
    "list": "names of networks and of published weights",
    "info": "what is known of a network or its weights",
    "summary": "a network's stages as a table",
    "convert": "weights from any layout to another",
    "export": "a network as a program: ONNX or StableHLO",
    "predict": "the likeliest classes of images",
    "draw": "a network or a module of it as SVG",
    "fid": "FID and other metrics of two folders of images",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, or 2 after one line that says why."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser(argv).parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as for a process that SIGPIPE ends
    except (UnknownModelError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser of a command line; only the command that it names is imported."""
    parser = argparse.ArgumentParser(prog="inception-jax", description="The Inception family.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, what in COMMANDS.items():
        description = what[0].upper() + what[1:] + "."
        command = commands.add_parser(name, help=what, description=description)
        if argv and argv[0] == name:
            module = importlib.import_module(f"inception_jax.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _show_warning(message: Any, *_: Any) -> None:
    print(f"note: {message}", file=sys.stderr)

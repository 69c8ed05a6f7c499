"""Handles commands that end early: by Ctrl-C, by SIGTERM, or because their output is closed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141  # 128 + the signal, as shells report it


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Context manager: turns SIGTERM and SIGHUP into `SystemExit`.

    By default these signals end a process at once, without removing temporary files. If a signal is
    repeated during the cleanup, it is ignored. Outside the main thread nothing changes, because
    only the main thread can handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    # An ignored signal, as under nohup, stays ignored.
    before = {s: signal.getsignal(s) for s in caught if signal.getsignal(s) is signal.SIG_DFL}
    for number in before:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, _: Any) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def print_all(text: str) -> None:
    """Prints a string. If the reader of standard output has stopped reading, no error is raised."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _to_nowhere()


def _to_nowhere() -> None:
    """Redirects standard output to the null device, so that Python prints no error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_command(command: Callable[[], int]) -> int:
    """Runs a command. If it ends early, there is no traceback and no partial file.

    Args:
        command: function that returns an exit code and handles its own errors.

    Returns:
        The exit code of the command; 130 after Ctrl-C; 143 after SIGTERM; 141 if the reader of
        standard output, such as `head`, has stopped reading.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # escape characters that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        with sigterm_raises():
            try:
                code = command()
            except SystemExit as end:  # raised by the parser, after --help, or by a signal
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if sys.stdout is not None:  # None if it is closed
                sys.stdout.flush()
        return code
    except BrokenPipeError:
        _to_nowhere()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED

"""Prints a last line on standard error unless the run succeeds, even if the process is killed.

A small watcher process, forked before any import, waits for the end of this process. If this
process ends without a call of `say` (segmentation fault, abort in a library, `kill -9`), the
watcher prints the line.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

_RESUME = "the same command resumes from the last checkpoint"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_MOST_NATIVE_BYTES = 1 << 20


class _State:
    said = False
    pipe: int | None = None  # to the watcher
    native: IO[bytes] | None = None  # what native code prints


def begin(*, verbose: bool) -> None:
    """Starts the watcher process, and captures the output of native code.

    The watcher prints the last line if this process ends without a call of `say`.

    Native libraries always print to file descriptor 2. This function redirects the descriptor to a
    temporary file, which is copied to `error.log` after an error. Python's `sys.stderr` still
    prints to the terminal.

    Args:
        verbose: let native code print to standard error at once, and capture nothing.
    """
    if not hasattr(os, "fork"):
        return
    if not verbose:
        terminal = os.dup(2)
        _State.native = tempfile.TemporaryFile()  # noqa: SIM115
        os.dup2(_State.native.fileno(), 2)
        sys.stderr = open(terminal, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    faulthandler.enable(2)
    readable, writable = os.pipe()
    sys.stderr.flush()
    if os.fork() == 0:
        os.close(writable)
        _watch(readable)
    os.close(readable)
    _State.pipe = writable


def workdir(folder: Path) -> None:
    """Tells the watcher where to write `error.log`."""
    from train import storage  # not before the watcher is forked

    _tell({"workdir": str(storage.absolute(folder))})


def say(line: str | None) -> None:
    """Prints the last line of a run, unless this function was already called during the run.

    Args:
        line: the last line; None if there is nothing to print, because the run succeeded.
    """
    if _State.said:
        return
    _State.said = True
    with contextlib.suppress(OSError):  # the reader has closed the pipe
        if line is not None:
            _print(one_line(line))
        with contextlib.suppress(RuntimeError):  # see `_print`
            sys.stdout.flush()
    _tell({"said": True})


def _print(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except RuntimeError:
        # A signal interrupted the main thread while it was writing to the stream. The stream stays
        # locked until the signal handler, which called this function, returns.
        os.write(sys.stderr.fileno(), f"{line}\n".encode(errors="backslashreplace"))


def begin_again() -> None:
    """Lets `say` print a last line again, for the next run in this process."""
    _State.said = False


def one_line(text: str) -> str:
    """Returns a string as one line.

    Line breaks become "; ", and other control characters are escaped.
    """
    text = "; ".join(part.strip() for part in text.strip().splitlines() if part.strip())
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def native_output() -> str:
    """Returns the last mebibyte of native code's output as a string; "" if it was not captured."""
    if _State.native is None:
        return ""
    size = os.fstat(_State.native.fileno()).st_size
    start = max(size - _MOST_NATIVE_BYTES, 0)
    return os.pread(_State.native.fileno(), _MOST_NATIVE_BYTES, start).decode(errors="replace")


def _tell(message: dict[str, Any]) -> None:
    if _State.pipe is not None:
        with contextlib.suppress(OSError):  # the watcher was killed
            os.write(_State.pipe, json.dumps(message).encode() + b"\n")


def _watch(readable: int) -> None:
    """Runs the watcher process, which waits for the end of the main process.

    If the main process ends without a call of `say`, the watcher prints the last line, such as
    "error: the process was killed; the same command resumes from the last checkpoint". It also
    writes the captured output of native code, if any, to `error.log` in the workdir.

    Args:
        readable: file descriptor of the reading end of the pipe from the main process.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # close standard output, so that its reader sees the end
    heard: dict[str, Any] = {}
    with open(readable, "rb") as pipe:
        for message in pipe:
            heard |= json.loads(message)
    if "said" not in heard:
        print(_post_mortem(heard.get("workdir")), file=sys.stderr, flush=True)
    os._exit(0)


def _post_mortem(folder: str | None) -> str:
    printed = native_output()
    if "distributed service" in printed or "coordination" in printed.lower():
        reason = f"another process of the run is lost; restart all of them, and {_RESUME}"
    elif "Fatal Python error" in printed or "Check failed" in printed:
        reason = f"native code ended the process; {_RESUME}"
    else:
        reason = f"the process was killed; {_RESUME}"
    if folder and printed:
        from train import storage

        try:
            path = storage.place(folder) / "error.log"
            path.write_text(printed)
        except Exception:  # after any error, the line must be printed
            return f"error: {reason}"
        return f"error: {reason} (trace: {one_line(str(path))})"
    return f"error: {reason}"

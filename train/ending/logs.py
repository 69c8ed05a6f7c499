"""Keeps logs of libraries for `error.log`. They are printed only with `--verbose`."""

from __future__ import annotations

import collections
import logging
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from train.ending import last_line

_KEPT = 500
_OWN = ("inception_jax", "train")  # packages with warnings that are written for users
_ROOT = Path(__file__).resolve().parents[2]


class _Keep(logging.Handler):
    """A handler that keeps the last `_KEPT` log records as text."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
        self.lines: collections.deque[str] = collections.deque(maxlen=_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


_keep = _Keep()


def begin(*, verbose: bool) -> None:
    """Captures logs, warnings, and errors in threads and finalisers, instead of printing them.

    The last records stay in memory for `error.log`, see `kept`. Warnings of this repository for
    users are still printed. The handlers of the root logger are replaced. (Without any handler,
    absl, through which Orbax and Grain log, would add one that prints.)

    Args:
        verbose: also print the captured records to standard error.
    """
    root = logging.getLogger()
    root.handlers[:] = [_keep]
    if verbose:
        root.addHandler(logging.StreamHandler(sys.stderr))
    warnings.showwarning = _show_warning
    threading.excepthook = _thread_error
    sys.unraisablehook = _unraisable


def kept() -> str:
    """Returns the last log records of libraries as one string, separated by line breaks."""
    return "\n".join(_keep.lines)


def _show_warning(message: Any, category: Any, filename: str, line: int, *_: Any) -> None:
    """Prints a `UserWarning` of this repository as a note, and logs all other warnings."""
    own = any(Path(filename).is_relative_to(_ROOT / package) for package in _OWN)
    if own and issubclass(category, UserWarning):
        print(f"note: {last_line.one_line(str(message))}", file=sys.stderr)
    else:
        text = f"{filename}:{line}: {category.__name__}: {message}"
        logging.getLogger("py.warnings").warning("%s", text)


def _thread_error(arguments: Any) -> None:
    if arguments.exc_type is SystemExit:
        return
    logging.getLogger("threads").error(
        "in thread %s",
        arguments.thread and arguments.thread.name,
        exc_info=(arguments.exc_type, arguments.exc_value, arguments.exc_traceback),
    )


def _unraisable(found: Any) -> None:
    logging.getLogger("python").error(
        "%s in %r",
        found.err_msg or "ignored",
        found.object,
        exc_info=(found.exc_type, found.exc_value, found.exc_traceback),
    )

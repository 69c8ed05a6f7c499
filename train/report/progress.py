"""Shows the elapsed time of work that does not report its progress."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

_SECONDS = {True: 1.0, False: 15.0}  # between two lines, on a terminal or not


@contextlib.contextmanager
def elapsed(what: str) -> Iterator[None]:
    """Context manager: prints the elapsed time on standard error until the body is done.

    On a terminal, one line is updated. Otherwise, a line is printed every 15 seconds.

    Args:
        what: name of the work, printed before the time.
    """
    started, done = time.monotonic(), threading.Event()
    terminal = sys.stderr.isatty()
    start, end = ("\r", "") if terminal else ("", "\n")

    def report() -> None:
        while not done.wait(_SECONDS[terminal]):
            line = f"{start}{what}: {time.monotonic() - started:.0f} s"
            print(line, end=end, file=sys.stderr, flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

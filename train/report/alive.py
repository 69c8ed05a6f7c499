"""A sign of life during work that does not report its progress."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

_TERMINAL_SECONDS = 1.0
_LOG_SECONDS = 15.0


@contextlib.contextmanager
def saying(what: str) -> Iterator[None]:
    """Says on standard error how long something has taken, until it is done.

    On a terminal one line that counts, in a log a line now and then.
    """
    started, done = time.monotonic(), threading.Event()
    terminal = sys.stderr.isatty()

    def talk() -> None:
        while not done.wait(_TERMINAL_SECONDS if terminal else _LOG_SECONDS):
            line = f"{what}: {time.monotonic() - started:.0f} s"
            print(f"\r{line}" if terminal else line, end="" if terminal else "\n",
                  file=sys.stderr, flush=True)  # fmt: skip

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

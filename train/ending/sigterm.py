"""Handles SIGTERM (preemption) during the whole life of the process.

Before the first step nothing can be lost, and SIGTERM ends the process at once. After that it only
sets a flag, and the training loop saves before it ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from train.ending import last_line

PREEMPTED = 42
NOTHING_LOST = "SIGTERM before the first step: nothing is lost, the same command starts again"

# Seconds for the main thread to reach its handler, which it cannot do while it compiles.
_GRACE_SECONDS = 2.0


class _State:
    installed = False
    received = False
    something_to_save = False
    cleanups: list[Callable[[], object]] = []  # noqa: RUF012


def install() -> None:
    """Installs the handler, in the main thread of a new process."""
    signal.signal(signal.SIGTERM, _receive)
    _State.installed = True


def watch() -> None:
    """Starts the thread that ends the process if the main thread cannot."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    # A Python handler runs only after compiled code returns. The thread at this pipe does not wait.
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    threading.Thread(target=_end_if_stuck, args=(readable,), daemon=True).start()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Delays SIGTERM until the end of the body."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def received() -> bool:
    """Returns whether SIGTERM was received."""
    return _State.received


def notice() -> None:
    """Records a SIGTERM that another process, or a handler of a library, has received."""
    _State.received = True


def something_to_save() -> bool:
    """Returns whether a step has been computed since the run began."""
    return _State.something_to_save


def save_first() -> None:
    """From now on SIGTERM only sets the flag, because there are steps to save."""
    _State.something_to_save = True


def begin() -> None:
    """Starts a run, with nothing to save yet. Without `install`, SIGTERM only sets the flag."""
    _State.something_to_save = False
    if not _State.installed:
        _State.received = False
        signal.signal(signal.SIGTERM, _receive)


def before_hard_end(cleanup: Callable[[], object]) -> None:
    """Registers a function that runs even if the process has to end without unwinding."""
    _State.cleanups.append(cleanup)


def end_within(seconds: float, code: int, line: str | None = None) -> None:
    """Ends the process after some seconds if something hangs.

    Does nothing in a process that did not call `install`, such as a test.
    """
    if not _State.installed:
        return
    timer = threading.Timer(seconds, _end, args=(code, line))
    timer.daemon = True
    timer.start()


def end(line: str) -> None:
    """Ends the process at once, with the exit code of a preempted run and a last line."""
    _end(PREEMPTED, line)


def _receive(*_: object) -> None:
    _State.received = True
    if _State.installed and not _State.something_to_save:
        # Not by an exception, because it can crash native modules during their import.
        _end(PREEMPTED, NOTHING_LOST)


def _end_if_stuck(readable: int) -> None:
    while True:
        if signal.SIGTERM in os.read(readable, 64):
            time.sleep(_GRACE_SECONDS)
            if not _State.something_to_save:
                _end(PREEMPTED, NOTHING_LOST)


def _end(code: int, line: str | None) -> None:
    # In a thread: the disk may be what hangs.
    cleaner = threading.Thread(target=_clean_up, daemon=True)
    cleaner.start()
    cleaner.join(_GRACE_SECONDS)
    last_line.say(line)
    os._exit(code)


def _clean_up() -> None:
    for cleanup in _State.cleanups:
        cleanup()

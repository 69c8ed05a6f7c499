"""Handles SIGTERM (preemption) during the whole life of the process.

Before the first training step there is nothing to save, and SIGTERM ends the process at once. From
then on, SIGTERM only sets a flag, and the training loop saves a checkpoint before it ends.
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
    """Installs the handler. Must be called in the main thread, at the start of the process.

    Until `save_first` is called, the handler ends the process. Then it only sets a flag.
    """
    signal.signal(signal.SIGTERM, _receive)
    _State.installed = True


def watch() -> None:
    """Starts a thread that ends the process after SIGTERM if there is nothing to save.

    The handler cannot do this while the main thread runs native code.
    """
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    # A Python handler runs only after compiled code returns. The thread that reads this pipe runs
    # at once.
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    threading.Thread(target=_end_if_stuck, args=(readable,), daemon=True).start()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Context manager: delays SIGTERM until the end of the body."""
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
    """Returns whether `save_first` was called since the run began."""
    return _State.something_to_save


def save_first() -> None:
    """Makes SIGTERM only set a flag from now on.

    Called at the start of a training step. From the first one on, the training loop must save a
    checkpoint before the process ends.
    """
    _State.something_to_save = True


def begin() -> None:
    """Records that a run begins and has nothing to save yet.

    If `install` was not called, this installs a handler that only sets a flag.
    """
    _State.something_to_save = False
    if not _State.installed:
        _State.received = False
        signal.signal(signal.SIGTERM, _receive)


def before_hard_end(cleanup: Callable[[], object]) -> None:
    """Registers a function to call when the process ends at once, without unwinding the stack."""
    _State.cleanups.append(cleanup)


def end_within(seconds: float, code: int, line: str | None = None) -> None:
    """Makes the process end after some seconds at the latest, in case something hangs.

    Does nothing if `install` was not called, as in tests.

    Args:
        seconds: time until the process is ended.
        code: exit code.
        line: last line to print; None for no line.
    """
    if not _State.installed:
        return
    timer = threading.Timer(seconds, _end, args=(code, line))
    timer.daemon = True
    timer.start()


def end(line: str) -> None:
    """Prints a last line and ends the process at once, with the exit code of a preempted run."""
    _end(PREEMPTED, line)


def _receive(*_: object) -> None:
    _State.received = True
    if _State.installed and not _State.something_to_save:
        # Not with an exception, which can crash native modules while they are imported.
        _end(PREEMPTED, NOTHING_LOST)


def _end_if_stuck(readable: int) -> None:
    while True:
        if signal.SIGTERM in os.read(readable, 64):
            time.sleep(_GRACE_SECONDS)
            if not _State.something_to_save:
                _end(PREEMPTED, NOTHING_LOST)


def _end(code: int, line: str | None) -> None:
    # In a thread, because the disk may hang.
    cleaner = threading.Thread(target=_clean_up, daemon=True)
    cleaner.start()
    cleaner.join(_GRACE_SECONDS)
    last_line.say(line)
    os._exit(code)


def _clean_up() -> None:
    for cleanup in _State.cleanups:
        cleanup()

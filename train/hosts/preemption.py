"""SIGTERM in a run of one or several processes: when to save, and when to end without saving."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed
from jax.experimental import multihost_utils

from train.ending import sigterm
from train.hosts import processes

# JAX's preemption service sets this key for all processes when one of them gets SIGTERM. The name
# is not documented; a test with two processes fails if it changes.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"

# Schedulers allow 30 seconds or more. In that time, processes that work reach their next step.
_SECONDS_WITHOUT_PROGRESS, _MOST_SECONDS = 15.0, 60.0
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_BETWEEN_QUESTIONS = 1.0  # each question is a message to process 0
# Process 0 ends last, because it runs the service that the others are connected to.
_SECONDS_FOR_OTHERS = 2.0

STALLED = (
    "SIGTERM: not saved, because the processes of the run did not reach the same step (a batch is "
    "missing, or a process is lost); the same command resumes from the last checkpoint"
)


class Preemption:
    """Tells whether the run has to end because this process or another one got SIGTERM.

    A scheduler sends SIGTERM some seconds before it takes the machine. All processes must call this
    object equally often. The n-th call returns the same value in all processes: True as soon as
    every process knows of the signal.

    Several processes can only save together. If one of them waits for a batch that never comes, no
    process can continue. In each process, a thread then ends the process without saving.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._received = False
        self._progress = _Progress()
        # With several processes, JAX's own service handles the signal and tells the others.
        self._alone = not jax.distributed.is_initialized()
        if self._alone:
            sigterm.begin()
        else:
            self._leaving = threading.Event()
            self._watcher = threading.Thread(target=self._end_if_stalled, daemon=True)
            self._watcher.start()
            processes.before_leaving(self._stop_watching)

    def save_first(self) -> None:
        """Makes SIGTERM only set a flag. Before this call, SIGTERM ends the process at once."""
        sigterm.save_first()

    def __call__(self) -> bool:
        if self._alone:
            return self.now()
        if not self._received:
            self._asked += 1
            self._received = multihost_utils.reached_preemption_sync_point(self._asked)
            self._progress.mark()
        return self._received

    def now(self) -> bool:
        """Returns whether SIGTERM was received, if the run has a single process.

        This can be called at any time. With several processes it always returns False: they must
        end at the same step, and a process does not know at which step the others are.
        """
        return self._alone and sigterm.received()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Context manager: the body, such as a compilation, does not count as a stall."""
        with self._progress.busy():
            yield

    def count_steps(self, computed: Callable[[], int]) -> None:
        """Sets a function that returns how many steps the devices have computed.

        A change of its result counts as progress.
        """
        self._progress.computed = computed

    def _end_if_stalled(self) -> None:
        """Waits until a process of the run gets SIGTERM, then ends this process if the run stalls.

        Runs in a thread. Returns once all processes know of the signal, or when the run ends.
        """
        if not self._noticed():
            return
        sigterm.notice()
        self._progress.begin()
        while not self._received and not self._leaving.is_set():
            if not sigterm.something_to_save():
                self._end(sigterm.NOTHING_LOST)
            if self._progress.seconds_without() > self._progress.patience():
                self._end(STALLED)
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _noticed(self) -> bool:
        """Waits until a process of the run gets SIGTERM.

        Returns:
            True; False if the run or the connection to the other processes ends first.
        """
        # Not public, but libraries such as Orbax use it too.
        client: Any = distributed.global_state.client
        while not self._leaving.wait(_SECONDS_BETWEEN_QUESTIONS):
            try:
                client.key_value_try_get(_NOTICE)
            except jax.errors.JaxRuntimeError as error:
                if "NOT_FOUND" not in str(error):
                    return False
            else:
                return True
        return False

    def _stop_watching(self) -> None:
        self._leaving.set()
        self._watcher.join()

    def _end(self, line: str) -> None:
        if processes.is_main():
            time.sleep(_SECONDS_FOR_OTHERS)
            if self._received or self._leaving.is_set():
                return
        sigterm.end(line)


class _Progress:
    """Measures the time since the last progress, in seconds."""

    def __init__(self) -> None:
        self.computed: Callable[[], int] = lambda: 0
        self._busy = 0
        self._last = time.monotonic()
        self._longest = 0.0
        self._seen = 0

    def begin(self) -> None:
        """Restarts the clock at zero."""
        self._last = time.monotonic()

    def mark(self) -> None:
        """Records that a step, or a batch of an evaluation, has started."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Context manager: time in the body does not count as time without progress.

        During the body, `seconds_without` returns 0. After it, the time is counted from 0 again.
        """
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self.begin()

    def seconds_without(self) -> float:
        """Returns the seconds since the last progress."""
        if (computed := self.computed()) != self._seen:
            self._seen = computed
            self.begin()
        return 0.0 if self._busy else time.monotonic() - self._last

    def patience(self) -> float:
        """Returns how many seconds without progress count as a stall.

        Twice the longest step, but between 15 and 60 seconds.
        """
        return min(max(_SECONDS_WITHOUT_PROGRESS, 2 * self._longest), _MOST_SECONDS)

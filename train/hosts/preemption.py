"""SIGTERM in a run of one process or of several: when to save, and when not to wait any longer."""

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

# jax's preemption service writes this key for all processes when one of them gets SIGTERM. The
# name is not in its documentation; a test of two processes notices if it changes.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"

# Schedulers give 30 seconds or more. In these, processes that work come to their next step.
_SECONDS_WITHOUT_PROGRESS, _MOST_SECONDS = 15.0, 60.0
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_BETWEEN_QUESTIONS = 1.0  # each is a message to process 0
# Process 0 ends last: it runs the service that the others are connected to.
_SECONDS_FOR_OTHERS = 2.0

STALLED = (
    "SIGTERM: not saved, because the processes of the run did not come to the same step (a batch "
    "that does not come, or a lost process); the same command resumes from the last checkpoint"
)


class Preemption:
    """Whether the run is to end: SIGTERM came, to this process or to any other.

    A scheduler sends it some seconds before it takes the machine. Every process must ask as often
    as the others, and all get the same answers: the first time at which all know.

    Several processes can only save together. If one of them waits for a batch that does not come,
    no process gets further: a thread then ends each of them, unsaved.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._received = False
        self._progress = _Progress()
        # With several processes jax's own service has the signal, and tells the others.
        self._alone = not jax.distributed.is_initialized()
        if self._alone:
            sigterm.begin()
        else:
            self._leaving = threading.Event()
            self._watcher = threading.Thread(target=self._end_if_stalled, daemon=True)
            self._watcher.start()
            processes.before_leaving(self._stop_watching)

    def save_first(self) -> None:
        """From now on SIGTERM waits until it is asked for; before, it ends the process at once."""
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
        """Says whether a process on its own has the signal; may be asked at any time.

        Several processes must end at the same step, and one cannot know where the others are.
        """
        return self._alone and sigterm.received()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Marks work that takes long without a step: a compilation, a checkpoint."""
        with self._progress.busy():
            yield

    def count_steps(self, computed: Callable[[], int]) -> None:
        """Takes what counts the steps that devices have computed: they too are progress."""
        self._progress.computed = computed

    def _end_if_stalled(self) -> None:
        """The thread: waits for the notice, then for the end or for a stall."""
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
        """Waits until a process of the run has got SIGTERM; False if the connection ends before."""
        # Not public; libraries such as Orbax take it from here too.
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
    """How long nothing has happened."""

    def __init__(self) -> None:
        self.computed: Callable[[], int] = lambda: 0
        self._busy = 0
        self._last = time.monotonic()
        self._longest = 0.0
        self._seen = 0

    def begin(self) -> None:
        """Counts from now on, whatever happened before."""
        self._last = time.monotonic()

    def mark(self) -> None:
        """Notes that a step, or a batch of an evaluation, was begun."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Suspends the count."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self.begin()

    def seconds_without(self) -> float:
        """Seconds since the last sign of work."""
        if (computed := self.computed()) != self._seen:
            self._seen = computed
            self.begin()
        return 0.0 if self._busy else time.monotonic() - self._last

    def patience(self) -> float:
        """Seconds that may pass: slow steps are no stall."""
        return min(max(_SECONDS_WITHOUT_PROGRESS, 2 * self._longest), _MOST_SECONDS)

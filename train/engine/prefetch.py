"""Copies the next batches to the devices while the devices compute.

Grain's `device_put` cannot be used. It supports neither global arrays of several processes
(`make_array_from_process_local_data`) nor batches that contain notes in addition to arrays.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import jax

_BATCHES = 2  # one that is ready, and one that is being copied
_SECONDS_BETWEEN_LOOKS = 0.2

Arrays = dict[str, jax.Array]
Item = TypeVar("Item")


class Stalled(Exception):
    """SIGTERM was received while the run waited for a batch."""


class Waiting:
    """Prefetches items in a thread, and stops waiting when the run has to end.

    A thread that waits for a hanging disk or network cannot be interrupted. It is abandoned, and
    ends with the process.

    Args:
        stop: function that returns whether the run has to end. It is called regularly while waiting
            for an item.
        ahead: number of items to prefetch.
    """

    def __init__(self, stop: Callable[[], bool], ahead: int) -> None:
        self._stop, self._ahead = stop, ahead
        self._stalled = False

    def read(self, items: Iterator[Item]) -> Generator[Item, None, None]:
        """Yields the items of an iterator, which is read in a thread.

        Raises:
            Stalled: if the run has to end before the next item is ready.
            Exception: any error that the iterator raises.
        """
        pool = ThreadPoolExecutor(1, "input")
        end = object()
        reading = collections.deque(pool.submit(next, items, end) for _ in range(self._ahead))
        try:
            while (item := self._wait(reading.popleft())) is not end:
                reading.append(pool.submit(next, items, end))
                yield item
        finally:
            pool.shutdown(wait=not self._stalled, cancel_futures=True)

    def _wait(self, future: Future[Any]) -> Any:
        while not wait([future], _SECONDS_BETWEEN_LOOKS).done:
            if self._stop():
                self._stalled = True
                raise Stalled
        return future.result()


@contextlib.contextmanager
def prefetch(
    batches: Iterator[dict[str, Any]],
    put: Callable[[dict[str, Any]], Arrays],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Iterator[tuple[Arrays, Any]]]:
    """Context manager: yields an iterator over batches on the devices.

    An item of the iterator is a tuple: a dict of the arrays "image" and "label", and the batch's
    notes.

    Args:
        batches: batches from the input pipeline. They are read in a thread.
        put: function that copies a dict of arrays to the devices. It is called in that thread.
        stop: see `Waiting`.

    Raises:
        Stalled: on iteration, if the run has to end while waiting for a batch.
        Exception: on iteration, any error that `batches` or `put` raises.
    """
    fetched = (
        (put({name: batch[name] for name in ("image", "label")}), batch["notes"])
        for batch in batches
    )
    with contextlib.closing(Waiting(stop, _BATCHES).read(fetched)) as ready:
        yield ready

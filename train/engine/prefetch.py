"""Prefetch: copies the next batches to the devices while they compute.

Grain's `device_put` cannot be used: it supports neither global arrays of several processes, as made
by `make_array_from_process_local_data`, nor notes in addition to arrays.
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

    Waiting for a hanging disk or network cannot be interrupted. The waiting thread is abandoned,
    and ends with the process.

    Args:
        stop: called regularly while waiting for an item.
        ahead: number of items to prefetch.
    """

    def __init__(self, stop: Callable[[], bool], ahead: int) -> None:
        self._stop, self._ahead = stop, ahead
        self._stalled = False

    def read(self, items: Iterator[Item]) -> Generator[Item, None, None]:
        """Yields the items.

        Raises:
            Stalled: if the run has to end before the next item is ready.
            Exception: any error of the items.
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
    """Yields device arrays of images and labels, with the notes of each batch.

    Args:
        batches: from the input pipeline, read in a thread.
        put: copies arrays to the devices, called in the same thread.
        stop: see `Waiting`.

    Raises:
        Stalled: on iteration, if the run has to end while waiting for a batch.
        Exception: on iteration, any error of `batches` or `put`.
    """
    fetched = (
        (put({name: batch[name] for name in ("image", "label")}), batch["notes"])
        for batch in batches
    )
    with contextlib.closing(Waiting(stop, _BATCHES).read(fetched)) as ready:
        yield ready

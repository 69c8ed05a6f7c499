"""Prefetch: the next batches go to the devices while these compute.

Grain's `device_put` takes no batches of several processes, whose global arrays
`make_array_from_process_local_data` makes, and no notes beside the arrays.
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
    """SIGTERM came while a batch was waited for."""


class Waiting:
    """Reads ahead in a thread, and gives waiting up when the run is to end.

    A disk or a network that hangs cannot be interrupted; the thread that waits for it is left
    behind, and ends with the process.

    Args:
        stop: asked now and then while an item is waited for.
        ahead: items that are read ahead.
    """

    def __init__(self, stop: Callable[[], bool], ahead: int) -> None:
        self._stop, self._ahead = stop, ahead
        self._stalled = False

    def read(self, items: Iterator[Item]) -> Generator[Item, None, None]:
        """Yields the items.

        Raises:
            Stalled: if the run is to end before the next item is there.
            Exception: whatever the items raise.
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
    """Gives what `put` makes of images and labels, with the batch's notes.

    Args:
        batches: of the input pipeline; read in a thread.
        put: puts arrays onto the devices; called in the same thread.
        stop: see `Waiting`.

    Raises:
        Stalled: on iteration, if the run is to end while a batch is waited for.
        Exception: on iteration, whatever either raises.
    """
    fetched = (
        (put({name: batch[name] for name in ("image", "label")}), batch["notes"])
        for batch in batches
    )
    with contextlib.closing(Waiting(stop, _BATCHES).read(fetched)) as ready:
        yield ready

"""Prefetch: the next batches go to the devices while these compute.

Grain's `device_put` takes no batches of several processes, whose global arrays
`make_array_from_process_local_data` makes, and no notes beside the arrays.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

_BATCHES = 2  # one that is ready, and one that is being copied

Arrays = dict[str, jax.Array]


@contextlib.contextmanager
def prefetch(
    batches: Iterator[dict[str, Any]], put: Callable[[dict[str, Any]], Arrays]
) -> Iterator[Iterator[tuple[Arrays, Any]]]:
    """Gives what `put` makes of images and labels, with the batch's notes.

    Args:
        batches: of the input pipeline; read in a thread.
        put: puts arrays onto the devices; called in the same thread.

    Raises:
        Exception: on iteration, whatever either raises.
    """

    def fetch() -> tuple[Arrays, Any] | None:
        batch = next(batches, None)
        if batch is None:
            return None
        return put({name: batch[name] for name in ("image", "label")}), batch["notes"]

    def ready() -> Iterator[tuple[Arrays, Any]]:
        while (fetched := fetching.popleft().result()) is not None:
            fetching.append(pool.submit(fetch))
            yield fetched

    with ThreadPoolExecutor(1, "input") as pool:
        fetching = collections.deque(pool.submit(fetch) for _ in range(_BATCHES))
        try:
            yield ready()
        finally:
            pool.shutdown(cancel_futures=True)

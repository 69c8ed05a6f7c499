"""The next batches, on their way to the devices while these compute."""

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
def on_devices(
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

    def taken() -> Iterator[tuple[Arrays, Any]]:
        while (ready := fetching.popleft().result()) is not None:
            fetching.append(pool.submit(fetch))
            yield ready

    with ThreadPoolExecutor(1, "input") as pool:
        fetching = collections.deque(pool.submit(fetch) for _ in range(_BATCHES))
        try:
            yield taken()
        finally:
            pool.shutdown(cancel_futures=True)

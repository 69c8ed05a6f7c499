"""Loads rows into batches ahead of time, with Grain's threads or worker processes.

Worker processes import this module, so it imports neither JAX nor a network. (Grain itself imports
JAX's tree functions if JAX is installed, but starts no backend.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags

from train.data.bad_images import Note
from train.errors import TrainingError, UsageError
from train.hosts.cpus import available_cores

Batch = dict[str, Any]

_SHARED_MEMORY = Path("/dev/shm")
_BUFFERED = 2  # batches ready in each worker
_ALIGNMENT = 64  # bytes
_MIN_SHARED_BYTES = 1 << 16  # smaller arrays, such as labels, are pickled


@dataclasses.dataclass(frozen=True)
class Row:
    """One image of a batch.

    Attributes:
        image: array of the image.
        label: index of the class.
        mask: 0 to leave the image out of the results, else 1.
        notes: notes on an image that was skipped, converted or excluded.
    """

    image: np.ndarray
    label: int
    mask: float = 1.0
    notes: tuple[Note, ...] = ()


class Batches(Iterator[Batch], contextlib.AbstractContextManager):
    """An iterator over batches, with the worker processes or threads that load them.

    `close` ends the workers. The end of a `with` statement also calls `close`.

    Args:
        batches: Grain's iterator.
        close: function that gets a list with `batches`, which it must empty, and ends the iterator
            and its workers.
    """

    def __init__(
        self,
        batches: grain.DatasetIterator[Batch],
        close: Callable[[list[grain.DatasetIterator[Batch]]], None],
    ) -> None:
        self._open = [batches]
        # Also runs at exit, before Python unloads the modules that Grain's destructors need.
        self._close = weakref.finalize(self, close, self._open)

    def __next__(self) -> Batch:
        if not self._open:
            raise StopIteration
        try:
            batch = next(self._open[0])
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise TrainingError(
                f"an input worker died ({error}): if memory ran out, use fewer --workers or a "
                "smaller --batch-size"
            ) from error
        # An array in memory shared with the workers would keep that memory after the program.
        return {k: _copy(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; may be called several times."""
        self._close()


def _copy(array: np.ndarray) -> np.ndarray:
    """Copies an array to an aligned address, so that JAX on a CPU needs no further copy."""
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _close_threads(batches: list[grain.DatasetIterator[Batch]]) -> None:
    while batches:
        batches.pop().close()


def _close_workers(batches: list[grain.DatasetIterator[Batch]]) -> None:
    _close_threads(batches)
    # Reference cycles keep Grain's last batches, and a thread of Grain frees their shared memory.
    # Python warns about shared memory that is not freed at exit.
    gc.collect()
    time.sleep(0.1)


def load_batches(
    indices: Sequence[int],
    load: Callable[[int], Row],
    share: int,
    workers: int,
    row_bytes: int,
) -> Batches:
    """Loads rows and groups them into batches, in order.

    Args:
        indices: indices to load. Indices at the end that do not fill a batch are dropped.
        load: function that returns the row of an index; must be picklable if there are workers.
        share: number of rows in a batch. With several processes, it is the number of rows that
            this process gets of each batch.
        workers: number of worker processes; 0 for threads.
        row_bytes: size of a row's image, to check whether the shared memory is large enough.

    Returns:
        An iterator over batches, which are dicts. "image", "label" and "mask" are arrays with an
        entry for each row. "notes" is a tuple of the notes of all rows. See `Row`.

    Raises:
        UsageError: if the shared memory is too small for the workers.
    """
    images = grain.MapDataset.source(indices).map(load)
    workers = min(workers, len(indices) // share)
    if workers == 0:
        threads = min(available_cores(), 16)
        read_ahead = grain.ReadOptions(threads, max(2 * share, threads))
        rows = images.to_iter_dataset(read_ahead)
        return Batches(iter(rows.batch(share, batch_fn=_stack)), _close_threads)
    _check_shared_memory(workers, share * row_bytes)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain asks absl for its flags
    # Each worker makes whole batches; distributing single images would reorder them.
    batches = images.batch(share, batch_fn=_stack).to_iter_dataset(grain.ReadOptions(1, 1))
    small = grain.experimental.DatasetOptions(min_shm_size=_MIN_SHARED_BYTES)
    batches = grain.experimental.WithOptionsIterDataset(batches, small)
    spread = grain.MultiprocessingOptions(workers, per_worker_buffer_size=_BUFFERED)
    batches = batches.mp_prefetch(spread, worker_init_fn=_start_worker)
    return Batches(iter(batches), _close_workers)


def _stack(rows: Sequence[Row]) -> Batch:
    return {
        "image": np.stack([row.image for row in rows]),
        "label": np.array([row.label for row in rows], np.int32),
        "mask": np.array([row.mask for row in rows], np.float32),
        "notes": tuple(note for row in rows for note in row.notes),
    }


def _check_shared_memory(workers: int, batch_bytes: int) -> None:
    """Checks that /dev/shm has room for the batches; a full /dev/shm would kill the workers.

    In a container, /dev/shm has 64 MB by default.

    Raises:
        UsageError: if there is too little room.
    """
    needed = workers * (_BUFFERED + 2) * batch_bytes
    if not _SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise UsageError(
            f"--workers {workers} need {needed / 1e6:.0f} MB of shared memory for their batches, "
            f"{_SHARED_MEMORY} has {free / 1e6:.0f} MB: use fewer, --workers 0 for threads, or "
            "give the container more (docker run --shm-size)"
        )


def _start_worker(index: int, count: int) -> None:
    """Prepares a worker process.

    The worker ignores SIGINT and SIGTERM, because the main process handles them. It ends when the
    main process ends or is killed. Grain passes `index` and `count`, which are not used.
    """
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

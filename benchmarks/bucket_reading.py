"""Compares the speed of reading images from a bucket with that of reading local files.

    python benchmarks/bucket_reading.py

prints a table and writes it into docs/input_pipeline.md. It needs the extra `test`, which installs
a storage server. The server runs on this machine and holds the bucket. A real bucket takes longer
to answer. To model this, one measurement waits `--answer-ms` milliseconds before each image.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import page
from benchmarks.input_pipeline import make_photos
from tests.helpers import buckets
from train import storage
from train.conversion.from_folder import convert_folder
from train.data.datasets import Source
from train.data.open_dataset import open_dataset
from train.data.options import InputOptions
from train.data.pipeline import train_batches

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Time reading from a bucket."""

    photos: int = 256
    """Number of synthetic photos of 500 x 375 pixels, ImageNet's mean size."""
    threads: int = 16
    """Number of threads that read at the same time."""
    answer_ms: float = 20.0
    """Milliseconds that a real bucket takes to answer. One measurement waits this long before each
    image."""
    repeats: int = 3
    """How often everything is timed."""
    batches: int = 24
    """Number of batches of 32 images for which the whole pipeline is timed."""


def folder(root: Path, photos: list[bytes]) -> None:
    """Writes photos as a data set of one class: all photos to train/, the first also to val/.

    `photos` are JPEG files as bytes.
    """
    for split, chosen in (("train", photos), ("val", photos[:1])):
        (root / split / "class").mkdir(parents=True)
        for i, photo in enumerate(chosen):
            (root / split / "class" / f"{i:04}.jpg").write_bytes(photo)


def reading(source: Source, threads: int, wait: float = 0.0) -> float:
    """Returns the images per second at which threads read a whole data set.

    Args:
        source: data set to read.
        threads: number of threads.
        wait: seconds that a thread waits before each image.
    """

    def read(index: int) -> int:
        time.sleep(wait)
        return len(source[index].image)

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        count = sum(size > 0 for size in pool.map(read, range(len(source))))
    return count / (time.perf_counter() - start)


def pipeline(dataset, batches: int) -> float:
    """Returns the images per second at which the input pipeline makes batches from files.

    The pipeline runs in this process, without workers. The first batch is not timed. After it,
    `batches` batches of 32 images are timed. `dataset` is a data set as `open_dataset` returns it.
    """
    inputs = InputOptions(299, "inception", workers=0)
    with train_batches(dataset, inputs, 0, batches + 1, BATCH, 0) as found:
        next(found)
        start = time.perf_counter()
        shown = sum(len(batch["label"]) for batch in found)
        return shown / (time.perf_counter() - start)


def copying(remote: Path, images: int) -> float:
    """Returns the images per second at which array_record files are copied from a bucket to disk.

    Args:
        remote: folder of the files in the bucket.
        images: number of images in the files.
    """
    with tempfile.TemporaryDirectory() as target:
        start = time.perf_counter()
        storage.filesystem(remote).get(f"{remote}/", f"{target}/", recursive=True)
        return images / (time.perf_counter() - start)


def methods(
    local: Path, remote: Path, options: Options
) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yields the name of each table row, and a function that measures images per second.

    Args:
        local: local folder with the photos in `folder`, and the same photos as array_record in
            `records`.
        remote: copy of this folder in the bucket.
        options: options of the command.
    """
    here, there = (open_dataset("folder", place) for place in (local / "folder", remote / "folder"))
    records = open_dataset("images", local / "records")
    many, wait = options.threads, options.answer_ms / 1e3
    yield "local files, 1 thread", lambda: reading(here.train, 1)
    yield "bucket, 1 thread", lambda: reading(there.train, 1)
    yield f"local files, {many} threads", lambda: reading(here.train, many)
    yield f"bucket, {many} threads", lambda: reading(there.train, many)
    name = f"bucket, {many} threads, {options.answer_ms:g} ms per answer"
    yield name, lambda: reading(there.train, many, wait)
    yield f"array_record on a disk, {many} threads", lambda: reading(records.train, many)
    name = "copying array_record from the bucket to a disk"
    yield name, lambda: copying(remote / "records", options.photos)
    yield "files to batches, local", lambda: pipeline(here, options.batches)
    yield "files to batches, bucket", lambda: pipeline(there, options.batches)


def main(options: Options) -> None:
    """Times reading from a bucket, and writes the table into docs/input_pipeline.md."""
    photos = make_photos(options.photos, 375, 500, 0)
    speeds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as work, buckets.server(Path(work, "server")) as server:
        os.environ.update(server.env)
        local = Path(work, "local")
        folder(local / "folder", photos)
        convert_folder(local / "folder", local / "records")
        remote = storage.place(f"gs://{buckets.BUCKET}/data")
        storage.filesystem(remote).put(f"{local}/", f"{remote}/", recursive=True)
        timed = list(methods(local, remote, options))
        for _ in range(options.repeats):
            for name, method in timed:
                speeds.setdefault(name, []).append(method())
                print(f"{name}: {speeds[name][-1]:.0f} images/s", file=sys.stderr)
    kilobytes = sum(map(len, photos)) / len(photos) / 1e3
    rows = [
        [name, *(f"{x:.0f}" for x in (min(v), statistics.median(v), max(v))),
         f"{statistics.median(v) * kilobytes / 1e3:.0f}"]
        for name, v in speeds.items()
    ]  # fmt: skip
    setting = (
        f"{len(photos)} synthetic photos of 500x375 with {kilobytes:.0f} kB on average; a storage "
        f"server on loopback; {options.repeats} repeats, wall time. "
        f"{page.machine('gcsfs', 'grain')}"
    )
    head = ["what is read", "images/s: slowest", "middle", "fastest", "MB/s"]
    page.publish(options.docs / "input_pipeline.md", "bucket", setting, page.table(head, rows))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

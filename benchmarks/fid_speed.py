"""How fast FID's statistics of a folder are computed, beside pytorch-fid.

Both read the same folder in the same batches with the same weights (random ones, unless a file is
given), each in a process of its own with its own defaults: pytorch-fid one process a core that
reads, this library one thread. They run in turn, once in each round, while the other waits, so what
else the machine does meets both alike; ratios are of times in the same round. The means of their
features are compared first.

    python benchmarks/fid_speed.py [--count N] [--sizes PIXELS ...] [--no-write]

prints a table and writes it into docs/performance.md. Needs pytorch-fid and torchvision.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# No jax and no torch here: the processes import this file, before their environment is set.
from benchmarks import page
from benchmarks.implementations import random_model

NAMES = ("inception_jax", "pytorch_fid")
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
TOLERANCE = 1e-4  # of the largest mean of a feature
GRACE = 5  # seconds in which a process may end by itself


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the statistics of a folder."""

    count: int = 100
    """Images in the folder."""
    sizes: tuple[int, ...] = (256, 1024)
    """Sides of the images in pixels, each a folder of its own."""
    batch_size: int = 50
    """Images that are computed at once."""
    rounds: int = 5
    """How often everything is timed."""
    weights: Path | None = None
    """pytorch-fid's file; not given: random numbers."""
    write: bool = True
    """Write the page; the table is printed in any case."""
    page: Path = ROOT / "docs" / "performance.md"
    """Page whose section is written."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What both are to compute.

    Attributes:
        folder: of the images.
        weights: file of pytorch-fid's form.
        batch_size: images at once.
    """

    folder: Path
    weights: Path
    batch_size: int


@dataclasses.dataclass
class Result:
    """What was found of a folder.

    Attributes:
        size: side of its images in pixels.
        first: seconds of the first pass, with what is compiled for it.
        seconds: of each round, by implementation.
        difference: of the means of the features, relative to the largest.
    """

    size: int
    first: dict[str, float]
    seconds: dict[str, list[float]]
    difference: float


def main(options: Options) -> None:
    """Times everything and writes the section."""
    os.environ.update(ENVIRONMENT)
    load = page.load()
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or random_weights(Path(folder))
        results = [measure(size, weights, options, Path(folder)) for size in options.sizes]
    text = section(results, options, load)
    print(text)
    if options.write:
        page.write_section(options.page, "fid", text)


def random_weights(folder: Path) -> Path:
    """Writes a network's random numbers as pytorch-fid's file."""
    import torch

    import inception_jax as ij

    path = folder / "pt_inception-2015-12-05-6726825d.pth"
    numbers = ij.to_torch(random_model("inception_v3.fid"))
    torch.save({name: torch.from_numpy(array) for name, array in numbers.items()}, path)
    return path


def make_folder(folder: Path, count: int, size: int) -> None:
    """JPEG files of smooth noise, which takes as long to decode as photographs."""
    folder.mkdir()
    rng = np.random.default_rng(size)
    for i in range(count):
        coarse = rng.integers(0, 256, (size // 16, size // 16, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        noise = np.asarray(picture) + rng.normal(0, 10, (size, size, 3))
        picture = Image.fromarray(np.uint8(np.clip(noise, 0, 255)))
        picture.save(folder / f"{i:05}.jpg", quality=90)


def measure(size: int, weights: Path, options: Options, folder: Path) -> Result:
    """Times both on one folder."""
    images = folder / str(size)
    make_folder(images, options.count, size)
    task = Task(images, weights, options.batch_size)
    workers = {}
    bar = tqdm(total=len(NAMES) * (1 + options.rounds), desc=f"{size} pixels")
    try:
        for name in NAMES:
            workers[name] = Worker(name, task)
            bar.update()
        ours, theirs = (workers[name].mean for name in NAMES)
        difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if not difference <= TOLERANCE:
            raise SystemExit(f"the means of the features differ by {difference:.1e}")
        seconds: dict[str, list[float]] = {name: [] for name in NAMES}
        for _ in range(options.rounds):
            for name in NAMES:
                seconds[name].append(workers[name].run())
                bar.update()
    finally:
        bar.close()
        for worker in workers.values():
            worker.end()
    return Result(size, {name: workers[name].first for name in NAMES}, seconds, difference)


class Worker:
    """An implementation in a process of its own, which waits until it is told to run.

    Attributes:
        first: seconds of its first pass.
        mean: of the features.
    """

    def __init__(self, name: str, task: Task):
        """Starts it and waits for its first pass."""
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(theirs, name, task))
        self._process.start()  # no daemon: pytorch-fid starts processes of its own
        theirs.close()
        try:
            self.first, self.mean = self._connection.recv()
        except EOFError:
            self.end()
            raise SystemExit(f"{name} could not be run, see above") from None

    def run(self) -> float:
        """Lets it compute once; returns the seconds that took."""
        self._connection.send("run")
        return self._connection.recv()

    def end(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(GRACE)
        self._process.kill()
        self._process.join()


def serve(connection: Connection, name: str, task: Task) -> None:
    """The process: makes an implementation ready, then runs it as often as it is told to."""
    os.environ.update(ENVIRONMENT)
    run = {"inception_jax": inception_jax, "pytorch_fid": pytorch_fid}[name](task)
    start = time.perf_counter()
    mean = run()
    connection.send((time.perf_counter() - start, mean))
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        start = time.perf_counter()
        run()
        connection.send(time.perf_counter() - start)


def inception_jax(task: Task) -> Callable[[], np.ndarray]:
    """This library, as `metrics.fid` does it."""
    from inception_jax import metrics

    extractor = metrics.Extractor(task.weights, batch_size=task.batch_size)
    extractor.load()
    return lambda: extractor.statistics(task.folder).mean


def pytorch_fid(task: Task) -> Callable[[], np.ndarray]:
    """pytorch-fid, as its command does it, with weights that are here already."""
    import torch
    from pytorch_fid import fid_score, inception  # type: ignore[import-not-found]

    state = torch.load(task.weights, weights_only=True)
    inception.load_state_dict_from_url = lambda *_, **__: state
    network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    compute: Any = functools.partial(
        fid_score.compute_statistics_of_path,
        str(task.folder),
        network,
        task.batch_size,
        2048,
        "cpu",
        min(page.available_cores(), 8),
    )
    return lambda: compute()[0]


def table(results: list[Result], count: int) -> str:
    """One row a folder."""
    lines = [
        "| images | pytorch-fid, images/s | inception_jax, images/s | ours / pytorch-fid | "
        "first pass, s |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        ours, theirs = (result.seconds[name] for name in NAMES)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        speeds = [f"{count / statistics.median(seconds):.1f}" for seconds in (theirs, ours)]
        first = " / ".join(f"{result.first[name]:.0f}" for name in reversed(NAMES))
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(
            f"| {count} of {result.size}x{result.size} | {' | '.join(speeds)} | {ratio} | {first} |"
        )
    return "\n".join(lines)


def section(results: list[Result], options: Options, load: float) -> str:
    """What the page says."""
    about = f"""`{page.command()}`. Mean and covariance of the 2048 features of a folder of JPEG
    files, in batches of {options.batch_size}, from files to statistics. The ratio is of images per
    second in the same round, so that more than 1 is faster: the middle of {options.rounds} rounds,
    with the lowest and the highest. Each runs in a process of its own with its own defaults, in
    turn with the other. The first pass, pytorch-fid's / ours, is before the rounds and has in it
    what is compiled. The means of the features agree within
    {max(r.difference for r in results):.0e} of the largest."""
    versions = page.machine("jax", "torch", "torchvision", "pytorch-fid", "pillow")
    machine = f"Machine: {versions}; {load:.1f} running processes in the minute before."
    return f"""## FID on a CPU

{page.paragraph(about)}

{page.paragraph(machine)}

{table(results, options.count)}
"""


def check_installed() -> None:
    """Says at once what is missing."""
    for package in ("pytorch-fid", "torchvision"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit(f"{package} is not installed: pip install {package}") from None


if __name__ == "__main__":
    arguments = tyro.cli(Options, description=__doc__)
    check_installed()
    main(arguments)

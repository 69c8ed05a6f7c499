"""Compares the speed of this library and pytorch-fid in computing FID's statistics of a folder.

Both programs read the same folder in the same batches, with the same weights. The weights are
random unless a file is given. Each program has its own process and its own defaults: pytorch-fid
reads with one process per core, this library with one thread per core. In each round, the two
programs run one after the other. Other work on the machine therefore affects both equally, and
ratios compare times of the same round. Before the first round, the feature means of the two
programs are compared.

    python benchmarks/fid_speed.py [--count N] [--sizes PIXELS ...] [--no-write]

prints a table and writes it into docs/performance.md. It needs pytorch-fid and torchvision.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# No JAX or PyTorch here: processes import this file before their environment is set.
from benchmarks import page
from benchmarks.implementations import random_model
from benchmarks.workers import Run, UnavailableError, Worker, in_turn

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
TOLERANCE = 1e-4  # relative to the largest mean of a feature


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Time the statistics of a folder."""

    count: int = 100
    """Number of images in each folder."""
    sizes: tuple[int, ...] = (256, 1024)
    """Sides of the images in pixels; each size has its own folder."""
    batch_size: int = 50
    """Images in a batch."""
    rounds: int = 5
    """How often each program is timed."""
    weights: Path | None = None
    """pytorch-fid's weight file; default: random weights."""
    write: bool = True
    """Write the page; the table is printed in any case."""


def main(options: Options) -> None:
    """Times pytorch-fid and this library, and prints a section of docs/performance.md.

    With `write`, the section is also written into the page.
    """
    for package in ("pytorch_fid", "torchvision"):
        if importlib.util.find_spec(package) is None:
            raise SystemExit(f"{package} is not installed: pip install {package}")
    machine = page.machine("jax", "torch", "torchvision", "pytorch-fid", "pillow")
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or random_weights(Path(folder))
        results = [measure(size, weights, options, Path(folder)) for size in options.sizes]
    head = ["images", "pytorch-fid, images/s", "inception_jax, images/s", "ours / pytorch-fid"]
    agreement = max(difference for _, difference in results)
    page.publish(
        options.docs / "performance.md" if options.write else None,
        "fid",
        f"Batches of {options.batch_size}, {options.rounds} rounds; the features' means agree "
        f"within {agreement:.0e} of the largest. {machine}",
        page.table([*head, "first pass, s"], [row for row, _ in results]),
    )


def random_weights(folder: Path) -> Path:
    """Writes random weights in the layout of pytorch-fid's weight file; returns the file's path."""
    import torch

    import inception_jax as ij

    path = folder / "pt_inception-2015-12-05-6726825d.pth"
    numbers = ij.to_torch(random_model("inception_v3.fid"))
    torch.save({name: torch.from_numpy(array) for name, array in numbers.items()}, path)
    return path


def make_folder(folder: Path, count: int, size: int) -> None:
    """Writes JPEG files of smooth noise, which take as long to decode as photographs.

    Args:
        folder: folder to create.
        count: number of files.
        size: side of the images in pixels.
    """
    folder.mkdir()
    rng = np.random.default_rng(size)
    for i in range(count):
        coarse = rng.integers(0, 256, (size // 16, size // 16, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        noise = np.asarray(picture) + rng.normal(0, 10, (size, size, 3))
        picture = Image.fromarray(np.uint8(np.clip(noise, 0, 255)))
        picture.save(folder / f"{i:05}.jpg", quality=90)


def measure(size: int, weights: Path, options: Options, folder: Path) -> tuple[list[str], float]:
    """Times both programs on a folder of images of one size.

    Args:
        size: side of the images in pixels.
        weights: file in the layout of pytorch-fid's weight file.
        options: numbers of images and rounds, and the batch size.
        folder: temporary folder, in which the images are written.

    Returns:
        A row of the table as a list of cells, and the relative difference between the programs'
        feature means.

    Raises:
        SystemExit: if the feature means differ too much, or if one of the programs cannot run.
    """
    images, count = folder / str(size), options.count
    make_folder(images, count, size)
    workers: dict[str, Worker] = {}
    try:
        for name, build in (("theirs", pytorch_fid), ("ours", inception_jax)):
            workers[name] = Worker(build, images, weights, options.batch_size)
        theirs, ours = workers["theirs"], workers["ours"]
        difference = float(np.abs(ours.first - theirs.first).max() / np.abs(theirs.first).max())
        if not difference <= TOLERANCE:
            raise SystemExit(f"the means of the features differ by {difference:.1e}")
        with tqdm(total=len(workers) * options.rounds, desc=f"{size} pixels") as bar:
            seconds = in_turn(workers, options.rounds, bar.update)
    except UnavailableError as reason:
        raise SystemExit(f"one of the two programs cannot run: {reason}") from None
    finally:
        for worker in workers.values():
            worker.end()
    pairs = zip(seconds["theirs"], seconds["ours"], strict=True)
    row = [
        f"{count} of {size}x{size}",
        *(f"{count / statistics.median(each):.1f}" for each in seconds.values()),
        page.spread([other / own for other, own in pairs]),
        f"{theirs.first_seconds:.0f} / {ours.first_seconds:.0f}",
    ]
    return row, difference


def inception_jax(folder: Path, weights: Path, batch_size: int) -> Run:
    """Returns a function that computes a folder's feature mean as `inception-jax fid` does.

    Args:
        folder: folder of images.
        weights: file in the layout of pytorch-fid's weight file.
        batch_size: number of images in a batch.
    """
    import inception_jax as ij
    from inception_jax import metrics

    ij.keep_freed_memory()
    extractor = metrics.Extractor(weights, batch_size=batch_size)
    extractor.load()
    return lambda: extractor.statistics(folder).mean


def pytorch_fid(folder: Path, weights: Path, batch_size: int) -> Run:
    """Returns a function that computes a folder's feature mean as pytorch-fid's command does.

    The weights are read from a local file and not downloaded. The arguments are those of
    `inception_jax`.
    """
    import torch
    from pytorch_fid import fid_score, inception  # type: ignore[import-not-found]

    state = torch.load(weights, weights_only=True)
    inception.load_state_dict_from_url = lambda *_, **__: state
    network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    compute: Any = functools.partial(
        fid_score.compute_statistics_of_path,
        str(folder),
        network,
        batch_size,
        2048,
        "cpu",
        min(page.available_cores(), 8),
    )
    return lambda: compute()[0]


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    main(tyro.cli(Options, description=__doc__))

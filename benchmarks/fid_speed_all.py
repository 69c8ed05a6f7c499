"""Times FID against four other programs, and measures its memory.

    python benchmarks/fid_speed_all.py [--count N] [--rounds N] [--results FILE] [--only PART ...]

The programs are pytorch-fid, torch-fidelity, clean-fid and torchmetrics, if they are installed. For
each of them, this library has a preset that computes the same. Program and preset run in turn, each
in its own process. They compute the statistics of the same folder of JPEG files with the same
random weights; each program uses its own defaults. Two more parts follow. One measures the peak
memory of this library for folders of several sizes. The other times the Fréchet distance of 2,048
features against a distance by scipy's matrix square root.

When all parts are measured, the tables are written into docs/performance.md. Run it on an idle
machine. `--only` measures some parts, and `--results` stores them in a file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import page
from benchmarks.fid_speed import ENVIRONMENT, TOLERANCE, make_folder
from benchmarks.workers import Run, UnavailableError, Worker, apart, in_turn
from inception_jax.outputs import atomic_write

DIMS = 2048
NARROW = 0.05  # width multiplier of a network that mostly reads and hardly computes


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Time the statistics of a folder with five programs."""

    count: int = 100
    """Images in the folder."""
    size: int = 256
    """Side of the images in pixels."""
    batch_size: int = 50
    """Images in a batch."""
    rounds: int = 3
    """How often everything is timed."""
    memory: tuple[int, ...] = (200, 1000)
    """Numbers of images for which the memory of FID's network is measured."""
    memory_narrow: tuple[int, ...] = (1000, 50_000)
    """Numbers of images for which the memory of a narrow network is measured."""
    results: Path | None = None
    """File of results; parts it already has are not measured again, new ones are added."""
    only: tuple[str, ...] = ()
    """Parts to measure: names of presets, memory, distance; default: all."""
    write: bool = True
    """Write the page; the tables are printed in any case."""


def main(options: Options) -> None:
    """Measures everything and writes the section."""
    packages = ("pytorch-fid", "torch-fidelity", "clean-fid", "torchmetrics")
    machine = page.machine("jax", "torch", *packages, "pillow")
    found: dict[str, Any] = {"machine": machine}
    if options.results and options.results.exists():
        found |= json.loads(options.results.read_text())
    with tempfile.TemporaryDirectory() as temporary:
        for part in parts(Path(temporary), options, found):
            if options.results:
                with atomic_write(options.results) as partial:
                    partial.write_text(json.dumps(found, indent=2))
            print(part, found[part], flush=True)
    if found.keys() >= {*THEIRS, "memory", "distance"}:
        publish(found, options)


def parts(folder: Path, options: Options, found: dict[str, Any]) -> Iterator[str]:
    """Measures the requested parts that `found` lacks, adds them to it, and yields their names."""
    wanted = [name for name in (*THEIRS, "memory", "distance") if name not in found]
    wanted = [name for name in wanted if not options.only or name in options.only]
    if "distance" in wanted:
        found["distance"] = apart(distances)
        yield "distance"
    if not {*THEIRS, "memory"} & set(wanted):
        return
    weights = apart(written_weights, folder / "weights")
    images = folder / "images"
    make_folder(images, options.count, options.size)
    for preset, build in THEIRS.items():
        if preset in wanted:
            found[preset] = beside(preset, build, images, weights, options)
            yield preset
    if "memory" in wanted:
        found["memory"] = memories(images, folder / "many", weights, options)
        yield "memory"


def publish(found: dict[str, Any], options: Options) -> None:
    """Writes the tables of all parts into the page."""
    ours, scipys, difference = found["distance"]
    page.publish(
        options.docs / "performance.md" if options.write else None,
        "fid-all",
        f"{options.count} images of {options.size} pixels in batches of {options.batch_size}, "
        f"{options.rounds} rounds. {found['machine']}",
        page.table(_HEAD, [found[preset] for preset in THEIRS]),
        page.paragraph(
            "Peak memory of a process that computes the statistics of a folder, with FID's "
            f"network and with one {NARROW:g} times as wide, which is fast enough for many images:"
        ),
        page.table(["network", "images", "peak memory, GiB"], found["memory"]),
        page.paragraph(
            f"The Fréchet distance of {DIMS} features takes {ours:.2f} s; with scipy's sqrtm it "
            f"takes {scipys:.1f} s. The relative difference of the two is {difference:.0e}."
        ),
    )


_HEAD = ["preset", "program, images/s", "inception_jax, images/s", "ours / program"]


def beside(
    preset: str, theirs: Callable[..., Run], images: Path, weights: Path, options: Options
) -> list[str]:
    """Times a program in turn with this library's preset for it; returns a row of the table.

    If the program is not available, the row has the reason instead of times.

    Raises:
        SystemExit: if the means of their features differ too much.
    """
    workers: dict[str, Worker] = {}
    arguments = (images, weights, options.batch_size)
    try:
        workers["theirs"] = Worker(theirs, *arguments, environment=ENVIRONMENT)
        workers["ours"] = Worker(inception_jax, *arguments, preset, environment=ENVIRONMENT)
        first = {name: worker.first for name, worker in workers.items()}
        difference = np.abs(first["ours"] - first["theirs"]).max() / np.abs(first["theirs"]).max()
        if not difference <= TOLERANCE:
            raise SystemExit(f"{preset}: the means of the features differ by {difference:.1e}")
        seconds = in_turn(workers, options.rounds, lambda: None)
    except UnavailableError as reason:
        return [preset, str(reason), "", ""]
    finally:
        for worker in workers.values():
            worker.end()
    pairs = list(zip(seconds["theirs"], seconds["ours"], strict=True))
    rates = (f"{options.count / statistics.median(each):.1f}" for each in seconds.values())
    return [preset, *rates, page.spread([other / own for other, own in pairs])]


def written_weights(folder: Path) -> Path:
    """Writes one random network in the file layout of every program; returns the folder."""
    from tests.helpers import fid_programs

    fid_programs.write_weights(folder)
    return folder


def inception_jax(folder: Path, weights: Path, batch_size: int, preset: str) -> Run:
    """Returns a function that computes a folder's feature mean with one of this library's presets.

    It computes as `inception-jax fid` does.
    """
    import inception_jax as ij
    from inception_jax import metrics
    from tests.helpers.fid_programs import PYTORCH

    ij.keep_freed_memory()
    extractor = metrics.Extractor(weights / PYTORCH, preset=preset, batch_size=batch_size)
    extractor.load()
    return lambda: extractor.statistics(folder).mean


def pytorch_fid(folder: Path, weights: Path, batch_size: int) -> Run:
    """Returns a function that computes a folder's feature mean as pytorch-fid's command does."""
    from pytorch_fid import fid_score  # type: ignore[import-not-found]

    from tests.helpers import fid_programs

    network = fid_programs.pytorch_fids(weights, DIMS)
    workers = min(page.available_cores(), 8)

    def run() -> np.ndarray:
        found = fid_score.compute_statistics_of_path(
            str(folder), network, batch_size, DIMS, "cpu", workers
        )
        return found[0]

    return run


def torch_fidelity(folder: Path, weights: Path, batch_size: int) -> Run:
    """Returns a function that computes a folder's feature mean with torch-fidelity."""
    from torch_fidelity import metric_fid, utils  # type: ignore[import-not-found]

    from tests.helpers import fid_programs

    network = fid_programs.torch_fidelitys(weights)
    options: dict[str, Any] = dict(
        input1=str(folder), batch_size=batch_size, cuda=False, verbose=False, cache=False
    )

    def run() -> np.ndarray:
        features = utils.extract_featuresdict_from_input_id_cached(1, network, **options)
        return metric_fid.fid_features_to_statistics(features["2048"])["mu"]

    return run


def clean_fid(folder: Path, weights: Path, batch_size: int) -> Run:
    """Returns a function that computes a folder's feature mean and covariance with clean-fid.

    The function returns the mean.
    """
    import torch
    from cleanfid import fid  # type: ignore[import-not-found]

    from tests.helpers import fid_programs

    network = fid_programs.cleans(weights)
    workers = min(page.available_cores(), 12)

    def run() -> np.ndarray:
        found = fid.get_folder_features(
            str(folder),
            network,
            num_workers=workers,
            batch_size=batch_size,
            device=torch.device("cpu"),
            mode="clean",
            verbose=False,
        )
        np.cov(found, rowvar=False)
        return found.mean(0)

    return run


def torchmetrics(folder: Path, weights: Path, batch_size: int) -> Run:
    """Returns a function that computes a folder's feature mean with torchmetrics.

    PyTorch's `DataLoader` reads the files.
    """
    import torch
    from PIL import Image

    from tests.helpers import fid_programs

    class Files(torch.utils.data.Dataset):
        paths = tuple(sorted(folder.iterdir()))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            pixels = np.asarray(Image.open(self.paths[index]).convert("RGB"))
            return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    with fid_programs.torchmetrics_weights(weights) as image:
        metric = image.fid.FrechetInceptionDistance(DIMS)
    files = Files()

    def run() -> np.ndarray:
        metric.reset()
        for batch in torch.utils.data.DataLoader(files, batch_size):
            metric.update(batch, real=True)
        mean = metric.real_features_sum / metric.real_features_num_samples
        return mean.numpy()

    return run


THEIRS: dict[str, Callable[..., Run]] = {
    "pytorch_fid": pytorch_fid,
    "torch_fidelity": torch_fidelity,
    "clean": clean_fid,
    "torchmetrics": torchmetrics,
}


def memories(images: Path, many: Path, weights: Path, options: Options) -> list[list[str]]:
    """Measures peak memory for folders of several sizes; returns rows of the table."""
    rows = []
    files = [file.read_bytes() for file in sorted(images.iterdir())]
    for narrow, counts in ((False, options.memory), (True, options.memory_narrow)):
        for count in counts:
            folder = many / str(count)
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (folder / f"{i:06}.jpg").write_bytes(files[i % len(files)])
            largest = apart(largest_memory, folder, weights, options.batch_size, narrow)
            name = "narrow" if narrow else "FID's"
            rows.append([name, f"{count:,}", f"{largest / 2**30:.2f}"])
            print(rows[-1], flush=True)
    return rows


def largest_memory(folder: Path, weights: Path, batch_size: int, narrow: bool) -> int:
    """Computes a folder's statistics; returns the peak memory of this process in bytes.

    Args:
        folder: folder of images.
        weights: folder of weight files; not used for the narrow network.
        batch_size: images in a batch.
        narrow: use a random network that is `NARROW` times as wide.
    """
    os.environ.update(ENVIRONMENT)
    if narrow:
        import inception_jax as ij
        from inception_jax import metrics

        ij.keep_freed_memory()
        model = ij.create_model("inception_v3.fid", width_multiplier=NARROW)
        metrics.Extractor(model, batch_size=batch_size).statistics(folder)
    else:
        inception_jax(folder, weights, batch_size, "pytorch_fid")()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def distances() -> tuple[float, float, float]:
    """Times this library's Fréchet distance, and one by scipy's matrix square root.

    Returns:
        Seconds of this library's, seconds of scipy's, and the relative difference of the results.
    """
    import scipy.linalg

    from inception_jax import metrics

    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(DIMS, DIMS)) / np.sqrt(DIMS)
    a, b = (
        metrics.Statistics.of(np.abs(rng.normal(size=(3 * DIMS, DIMS)) @ mixing) * scale)
        for scale in (1.0, 1.1)
    )
    start = time.perf_counter()
    ours = metrics.frechet_distance(a, b)
    middle = time.perf_counter()
    root = scipy.linalg.sqrtm(a.cov @ b.cov)
    apart_by = a.mean - b.mean
    theirs = apart_by @ apart_by + np.trace(a.cov) + np.trace(b.cov) - 2 * np.trace(root).real
    return middle - start, time.perf_counter() - middle, abs(ours / float(theirs) - 1)


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    main(tyro.cli(Options, description=__doc__))

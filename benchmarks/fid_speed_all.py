"""Compares this library's speed in FID with that of four programs, and measures its memory.

    python benchmarks/fid_speed_all.py [--count N] [--rounds N] [--results FILE] [--only PART ...]

The programs are pytorch-fid, torch-fidelity, clean-fid and torchmetrics, if they are installed. For
each program, this library has a preset that computes the same statistics. The program and the
preset run in turn, each in its own process. Both compute the statistics of the same folder of JPEG
files with the same random weights. Each program uses its own defaults.

Two more parts follow. One measures the peak memory of this library for folders of several sizes.
The other times the Fréchet distance of 2,048 features, by this library and by scipy's matrix square
root.

The tables are written into docs/performance.md when all parts have been measured. Run the command
on an idle machine. `--only` measures only the given parts: names of presets, `memory`, `distance`.
`--results` stores the results in a file; parts that are already in the file are not measured again.
"""

from __future__ import annotations

import dataclasses
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
from benchmarks.stored import save, saved
from benchmarks.workers import Run, UnavailableError, Worker, apart, in_turn

DIMS = 2048


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Time the statistics of a folder with five programs."""

    count: int = 100
    """Number of images in the folder."""
    size: int = 256
    """Side of the images in pixels."""
    batch_size: int = 50
    """Images in a batch."""
    rounds: int = 3
    """How often each program is timed."""
    memory: tuple[int, ...] = (200, 1000, 50_000)
    """Numbers of images for which the peak memory is measured; 50,000 images take an hour."""
    results: Path | None = None
    """File of results. Parts in the file are not measured again; new results are added."""
    only: tuple[str, ...] = ()
    """Parts to measure: names of presets, `memory` and `distance`; default: all parts."""
    write: bool = True
    """Write the page; the tables are printed in any case."""


def main(options: Options) -> None:
    """Measures the parts that have no result yet; publishes the tables if all parts have one."""
    packages = ("pytorch-fid", "torch-fidelity", "clean-fid", "torchmetrics")
    machine = page.machine("jax", "torch", *packages, "pillow")
    names = ("count", "size", "batch_size", "rounds", "memory")
    setting = {name: getattr(options, name) for name in names}
    setting |= {"machine": machine.partition(";")[0], "memory": list(options.memory)}
    found = saved(options.results, setting)
    with tempfile.TemporaryDirectory() as temporary:
        for part in parts(Path(temporary), options, found):
            save(options.results, setting, found)
            print(part, found[part], flush=True)
    if found.keys() >= {*THEIRS, "memory", "distance"}:
        publish(found, options, machine)


def parts(folder: Path, options: Options, found: dict[str, Any]) -> Iterator[str]:
    """Measures the requested parts that are not in `found`.

    The parts are the comparisons with other programs, named by the presets in `THEIRS`; `memory`;
    and `distance`.

    Args:
        folder: temporary folder for images and weights.
        options: options of the command.
        found: results by name of the part; new results are added.

    Yields:
        The name of each part, after its result has been added to `found`.
    """
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


def publish(found: dict[str, Any], options: Options, machine: str) -> None:
    """Prints the tables, and writes them into docs/performance.md if `options.write` is set.

    Args:
        found: results of all parts, see `parts`.
        options: options of the command.
        machine: description of the machine, see `page.machine`.
    """
    ours, scipys, difference = found["distance"]
    page.publish(
        options.docs / "performance.md" if options.write else None,
        "fid-all",
        f"{options.count} images of {options.size} pixels in batches of {options.batch_size}, "
        f"{options.rounds} rounds. {machine}",
        page.table(_HEAD, [found[preset] for preset in THEIRS]),
        page.paragraph("Peak memory of a process that computes the statistics of a folder:"),
        page.table(["images", "peak memory, GB"], found["memory"]),
        page.paragraph(
            f"The Fréchet distance of {DIMS} features takes {ours:.2f} s; with scipy's sqrtm it "
            f"takes {scipys:.1f} s. The relative difference of the two is {difference:.0e}."
        ),
    )


_HEAD = ["preset", "program, images/s", "inception_jax, images/s", "ours / program"]


def beside(
    preset: str, theirs: Callable[..., Run], images: Path, weights: Path, options: Options
) -> list[str]:
    """Times a program and this library's preset for it in turn; returns a row of the table.

    The row is a list of cells. If the program cannot run, it has the reason and no times.

    Args:
        preset: name of the preset.
        theirs: function that builds the program's run, one of the values of `THEIRS`.
        images: folder of images.
        weights: folder of weight files.
        options: batch size, number of rounds and number of images.

    Raises:
        SystemExit: if the feature means of the program and the preset differ too much.
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
    """Writes one set of random weights in the programs' file formats; returns the folder."""
    from tests.helpers import fid_programs

    fid_programs.write_weights(folder)
    return folder


def inception_jax(folder: Path, weights: Path, batch_size: int, preset: str) -> Run:
    """Returns a function that computes a folder's feature mean with one of this library's presets.

    The function computes as `inception-jax fid` does.

    Args:
        folder: folder of images.
        weights: folder of weight files, see `written_weights`.
        batch_size: number of images in a batch.
        preset: name of the preset.
    """
    import inception_jax as ij
    from inception_jax import metrics
    from tests.helpers.fid_programs import PYTORCH

    ij.keep_freed_memory()
    extractor = metrics.Extractor(weights / PYTORCH, preset=preset, batch_size=batch_size)
    extractor.load()
    return lambda: extractor.statistics(folder).mean


def pytorch_fid(folder: Path, weights: Path, batch_size: int) -> Run:
    """Returns a function that computes a folder's feature mean as pytorch-fid's command does.

    The arguments are those of `inception_jax`.
    """
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
    """Returns a function that computes a folder's feature mean with torch-fidelity.

    The arguments are those of `inception_jax`.
    """
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

    The function returns only the mean.

    The arguments are those of `inception_jax`.
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

    The arguments are those of `inception_jax`.
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
    """Measures peak memory for folders of several sizes; returns rows of the table.

    A row is a list of two cells: the number of images, and the peak memory in GB.

    Args:
        images: folder of images, which are copied until each folder has enough.
        many: folder in which the folders of several sizes are made.
        weights: folder of weight files.
        options: numbers of images in the folders, and the batch size.
    """
    rows = []
    files = [file.read_bytes() for file in sorted(images.iterdir())]
    for count in options.memory:
        folder = many / str(count)
        folder.mkdir(parents=True)
        for i in range(count):
            (folder / f"{i:06}.jpg").write_bytes(files[i % len(files)])
        peak = apart(peak_memory, folder, weights, options.batch_size)
        rows.append([f"{count:,}", f"{peak / 1e9:.2f}"])
        print(rows[-1], flush=True)
    return rows


def peak_memory(folder: Path, weights: Path, batch_size: int) -> int:
    """Computes a folder's statistics; returns the peak memory of this process in bytes.

    The arguments are those of `inception_jax`.
    """
    os.environ.update(ENVIRONMENT)
    inception_jax(folder, weights, batch_size, "pytorch_fid")()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def distances() -> tuple[float, float, float]:
    """Times the Fréchet distance by this library, and by scipy's matrix square root.

    Returns:
        Seconds by this library, seconds by scipy, and the relative difference of the two distances.
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

"""Trains every network with its demo recipe, and writes the table of docs/results.md.

    python benchmarks/demo_results.py [ARCH ...] [--runs FOLDER] [--jobs N]

Each network is trained in its own process by the README's command, `train/main.py --arch ARCH`. N
processes run at a time. They share the cores, so each takes longer if N is above 1. Networks with a
finished run in FOLDER are not trained again. The page is rewritten after each run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import jax
import tyro
from flax import nnx
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import inception_jax as ij
from benchmarks import page
from inception_jax.create import abstract_model

HEAD = ["network", "parameters", "image", "width", "batch x steps", "top-1", "top-5", "raw",
        "time", "CPU time"]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Train networks with their demo recipes."""

    archs: tyro.conf.Positional[tuple[str, ...]] = tuple(ij.list_models())
    """Networks to train."""
    runs: Path = page.ROOT / "runs" / "demo"
    """Folder of the runs."""
    jobs: int = 1
    """Number of networks that are trained at the same time."""


def train(arch: str, folder: Path) -> None:
    """Trains a network in a new process, and writes the process's times to minutes.json.

    The times are wall time and CPU time in minutes. The file is in `folder`, the run's workdir. If
    it exists, the run has already finished, and nothing is done.

    Raises:
        RuntimeError: if the training fails.
    """
    timing = folder / "minutes.json"
    if timing.exists():
        return
    command = [sys.executable, str(page.ROOT / "train/main.py"), "--arch", arch]
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*command, "--workdir", str(folder)], cwd=page.ROOT, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{arch} has failed: see {folder}/log.txt")
    minutes = {"wall": time.monotonic() - started, "cpu": usage.ru_utime + usage.ru_stime}
    timing.write_text(json.dumps({name: seconds / 60 for name, seconds in minutes.items()}))


def row(arch: str, folder: Path) -> list[str]:
    """Returns the table row, a list of cells, of a network with a finished run."""
    result, config = (json.loads((folder / f"{n}.json").read_text()) for n in ("result", "config"))
    minutes = json.loads((folder / "minutes.json").read_text())
    width = config["width_multiplier"]
    model = abstract_model(arch, num_classes=10, in_channels=1, width_multiplier=width)
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    shares = (f"{result[f'eval_{name}']:.1%}" for name in ("top1", "top5", "top1_raw"))
    times = (f"{minutes[kind]:.1f} min" for kind in ("wall", "cpu"))
    work = config["image_size"], f"{width:g}", f"{config['batch_size']} x {result['step']}"
    return [f"`{arch}`", f"{params:,}", *work, *shares, *times]


def main(options: Options) -> None:
    """Trains the networks, and writes the table of docs/results.md after each run."""
    machine = page.machine("jax", "flax")
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(train, arch, options.runs / arch) for arch in options.archs]
        for run in tqdm(as_completed(runs), total=len(runs), unit="network"):
            run.result()
            publish(options, machine)


def publish(options: Options, machine: str) -> None:
    """Prints the table of docs/results.md, with a row for each finished run, and writes the page.

    Args:
        options: options of the command.
        machine: description of the machine, see `page.machine`.
    """
    ended = {a: (options.runs / a / "minutes.json").exists() for a in ij.list_models()}
    missing = ", ".join(f"`{arch}`" for arch, done in ended.items() if not done)
    page.publish(
        options.docs / "results.md",
        "demo",
        f"{options.jobs} at a time. {machine}",
        page.table(HEAD, [row(a, options.runs / a) for a, done in ended.items() if done]),
        f"Not run since the recipes were last changed: {missing}." if missing else "",
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Trains every network by its demo recipe and writes docs/results.md.

    python benchmarks/demo_results.py [ARCH ...] [--runs FOLDER] [--jobs N]

Each network is trained by the command that the README gives, in a process of its own, N at a time;
the times then count their waiting for each other. Networks whose run in FOLDER is finished are not
trained again; the page is rewritten after each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import jax
from flax import nnx
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import inception_jax as ij
from train.hosts.cpus import available_cores

PAGE = ROOT / "docs" / "results.md"

_HEAD = """# What the demo reaches

`python train/main.py --arch ARCH`, as it stands, for every network: 6,000 training images and 1,000
test images of Fashion-MNIST in ten classes, resized on the device, networks a quarter or an eighth
as wide. These are small runs that show that a network trains, not a ranking: sizes, widths and
lengths differ (see `train/config/demo.py`). Made by
`python benchmarks/demo_results.py` on {machine}.

Parameters are the trained numbers of the network without auxiliary classifiers. Top-1 and top-5
are of the averaged weights, "raw" of those being trained. The time is that of the whole command,
compilation and evaluations included, with {jobs} of them running at a time and whatever else the
machine did; the CPU time is of all cores together.

| network | parameters | image | width | batch x steps | top-1 | top-5 | raw | time | CPU time |
|---|---|---|---|---|---|---|---|---|---|
"""


def train(arch: str, folder: Path) -> None:
    """Runs the command, unless it has been run to its end."""
    timing = folder / "minutes.json"
    if timing.exists():
        return
    command = [sys.executable, str(ROOT / "train/main.py"), "--arch", arch]
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*command, "--workdir", str(folder)], cwd=ROOT, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{arch} has failed: see {folder}/log.txt")
    minutes = {"wall": time.monotonic() - started, "cpu": usage.ru_utime + usage.ru_stime}
    timing.write_text(json.dumps({name: seconds / 60 for name, seconds in minutes.items()}))


def row(arch: str, folder: Path) -> str:
    """A line of the table."""
    result, config = (json.loads((folder / f"{n}.json").read_text()) for n in ("result", "config"))
    minutes = json.loads((folder / "minutes.json").read_text())
    model = ij.create_model(
        arch, num_classes=10, in_channels=1, width_multiplier=config["width_multiplier"]
    )
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    top1, top5, raw = (result[f"eval_{name}"] for name in ("top1", "top5", "top1_raw"))
    return (
        f"| `{arch}` | {params:,} | {config['image_size']} | {config['width_multiplier']:g} "
        f"| {config['batch_size']} x {result['step']} | {top1:.1%} | {top5:.1%} | {raw:.1%} "
        f"| {minutes['wall']:.1f} min | {minutes['cpu']:.1f} min |\n"
    )


def main() -> None:
    """Trains, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archs", nargs="*", default=ij.list_models(), metavar="ARCH")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "demo")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(train, arch, options.runs / arch) for arch in options.archs]
        for run in tqdm(as_completed(runs), total=len(runs), unit="network"):
            run.result()
            write_page(options.runs, options.jobs)


def write_page(runs: Path, jobs: int) -> None:
    """Writes a line for each network whose run has ended."""
    done = [a for a in ij.list_models() if (runs / a / "minutes.json").exists()]
    machine = f"{available_cores()} cores ({platform.machine()}), JAX on the CPU"
    PAGE.parent.mkdir(exist_ok=True)
    missing = ", ".join(f"`{arch}`" for arch in ij.list_models() if arch not in done)
    PAGE.write_text(
        _HEAD.format(machine=machine, jobs=jobs)
        + "".join(row(a, runs / a) for a in done)
        + (f"\nNot run since the recipes were last changed: {missing}.\n" if missing else "")
    )


if __name__ == "__main__":
    main()

"""Trains every network by its demo recipe and writes docs/results.md.

    python benchmarks/demo.py [ARCH ...] [--runs FOLDER]

Each network is trained by the command that the README gives, in a process of its own, one after
another. Networks whose run is in FOLDER already, finished, are not trained again; the page is
rewritten after each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import inception_jax as ij

PAGE = ROOT / "docs" / "results.md"

_HEAD = """# What the demo reaches

`python train/main.py --arch ARCH`, as it stands, for every network: 6,000 training images and 1,000
test images of Fashion-MNIST in ten classes, resized on the device, networks a quarter or an eighth
as wide. These are small runs that show that a network trains, not a ranking: sizes, widths and
lengths differ (see `train/demo.py`). Made by `python benchmarks/demo.py` on {machine}.

Top-1 and top-5 are of the averaged weights, "raw" of those being trained. The time is that of the
whole command, compilation and evaluations included.

| network | parameters | image | width | batch x steps | top-1 | top-5 | raw top-1 | time |
|---|---|---|---|---|---|---|---|---|
"""


def train(arch: str, folder: Path) -> None:
    """Runs the command, unless it has been run to its end."""
    timing = folder / "seconds.json"
    if timing.exists():
        return
    command = [sys.executable, str(ROOT / "train/main.py"), "--arch", arch]
    started = time.monotonic()
    subprocess.run([*command, "--workdir", str(folder)], check=True, cwd=ROOT)
    timing.write_text(json.dumps(time.monotonic() - started))


def row(arch: str, folder: Path) -> str:
    """A line of the table."""
    result, config = (json.loads((folder / f"{n}.json").read_text()) for n in ("result", "config"))
    seconds = json.loads((folder / "seconds.json").read_text())
    model = ij.create_model(
        arch, num_classes=10, in_channels=1, width_multiplier=config["width_multiplier"]
    )
    params = sum(tensor.size for tensor in ij.to_torch(model).values())
    top1, top5, raw = (result[f"eval_{name}"] for name in ("top1", "top5", "top1_raw"))
    return (
        f"| `{arch}` | {params:,} | {config['image_size']} | {config['width_multiplier']:g} "
        f"| {config['batch_size']} x {result['step']} | {top1:.1%} | {top5:.1%} | {raw:.1%} "
        f"| {seconds / 60:.1f} min |\n"
    )


def main() -> None:
    """Trains, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archs", nargs="*", default=ij.list_models(), metavar="ARCH")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "demo")
    options = parser.parse_args()
    for arch in options.archs:
        train(arch, options.runs / arch)
        done = [a for a in ij.list_models() if (options.runs / a / "seconds.json").exists()]
        machine = f"{len(os.sched_getaffinity(0))} cores ({platform.machine()}), JAX on the CPU"
        rows = [row(a, options.runs / a) for a in done]
        PAGE.write_text(_HEAD.format(machine=machine) + "".join(rows))
        print(rows[done.index(arch)], end="", flush=True)


if __name__ == "__main__":
    main()

"""Estimates the memory and time of every network's training step on TPUs.

    python benchmarks/pods.py [--archs ARCH ...] [--full]

prints tables and writes them into docs/pods.md. It needs the extra `tpu`, which has the TPU
compiler, but no TPU. Every row has the numbers that `train/main.py --compile-only` reports. The
first run takes hours, mostly for the search for the largest batch. Compiled programs are cached, so
a second run only traces them.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import inception_jax as ij
from benchmarks import page
from benchmarks.workers import apart
from train.compile import topology, training_step
from train.errors import UsageError
from train.run.command_line import parse

SLICE = "v5e:2x2"
SLICES = ("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16")
LANES = 128  # images per chip; a multiple of 128 fills the lanes of the vector unit

# Images per chip in a step, by the start of a network's name. InceptionNeXt's authors had 128 per
# GPU (160 for atto). Xception has a quarter of its recipe's 256. All others have 32, the images of
# one replica in their recipes.
EACH = {"inception_next_atto": 160, "inception_next": 128, "xception": 64, "": 32}

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Compile the training step of every network."""

    archs: tuple[str, ...] = tuple(ij.list_models())
    """Networks in the first table."""
    full: bool = False
    """Also compile Inception V3 at full effort, to get the compiler's cycles; takes 15 minutes."""


def images_each(arch: str) -> int:
    """Returns the number of images per chip in a network's step, from `EACH`."""
    return next(count for start, count in EACH.items() if arch.startswith(start))


def command(arch: str, where: str, each: int, *more: str) -> list[str]:
    """Returns the options of `train/main.py` that compile one step.

    Args:
        arch: name of the network.
        where: devices to compile for, such as v5e:2x2.
        each: number of images per device.
        *more: further options of `train/main.py`.
    """
    devices = len(topology.describe(where).devices)
    return ["--arch", arch, "--compile-only", where, "--dtype", "bfloat16",
            "--batch-size", str(each * devices), *more]  # fmt: skip


def compiled(options: list[str]) -> Row:
    """Compiles a step; returns the compiler's report, a dict.

    Args:
        options: options of `train/main.py`.
    """
    config, dataset = parse(options)
    return training_step.compile_step(config, dataset, training_step.describe_topology(config))


def network(arch: str) -> Row:
    """Returns the compiler's report on a network's training step.

    The report's key `largest` has the number of images per chip in the largest batch that fits.
    """
    config, dataset = parse(command(arch, SLICE, images_each(arch)))
    target = training_step.describe_topology(config)
    found = training_step.compile_step(config, dataset, target)
    largest = training_step.largest_batch(config, dataset, target)
    return {**found, "largest": largest // len(target.devices)}


def networks_table(rows: list[Row]) -> str:
    """Returns the Markdown table of every network on one host.

    `rows` are results of `network`.
    """
    head = ["network", "recipe", "image", "images per chip", "memory per chip, GB",
            "TFLOP per chip", "roofline, ms", "images/s/chip", "share of peak",
            "largest batch per chip"]  # fmt: skip
    lines = [
        [f"`{r['arch']}`", f"`{r['recipe']}`", r["image_size"], r["batch_size"] // r["devices"],
         f"{r['memory_bytes'] / 1e9:.2f}", f"{r['flops'] / 1e12:.2f}",
         f"{r['roofline_seconds'] * 1e3:.1f}", f"{r['roofline_images_per_second_per_chip']:,.0f}",
         f"{r['roofline_share_of_peak']:.0%}", r["largest"]]
        for r in rows
    ]  # fmt: skip
    return page.table(head, lines)


def slices_table(rows: list[Row]) -> str:
    """Returns the Markdown table of Inception V3 on slices of increasing size.

    `rows` are the compiler's reports, one for each slice.
    """
    head = ["slice", "chips", "batch", "arguments, GB", "temporaries, GB", "all-reduces",
            "all-reduced, MB", "gradients, MB", "roofline, ms",
            "images/s, all chips"]  # fmt: skip
    lines = []
    for r in rows:
        sums = all_reduces(r)
        dtypes = ", ".join(sorted({c["dtype"] for c in sums}))
        each = r["roofline_images_per_second_per_chip"]
        lines.append(
            [r["topology"], r["chips"], f"{r['batch_size']:,}",
             f"{r['argument_bytes'] / 1e9:.3f}", f"{r['temporary_bytes'] / 1e9:.2f}",
             f"{sum(c['count'] for c in sums)} in {dtypes}",
             f"{sum(c['bytes'] for c in sums) / 1e6:.1f}",
             f"{max(c['largest'] for c in sums) / 1e6:.1f}",
             f"{r['roofline_seconds'] * 1e3:.1f}", f"{each * r['chips']:,.0f}"]
        )  # fmt: skip
    return page.table(head, lines)


def reductions_table(rows: list[Row]) -> str:
    """Returns the Markdown table that compares the dtypes in which gradients are summed.

    `rows` are the compiler's reports, one for each dtype.
    """
    head = ["`--grad-reduce`", "all-reduces", "all-reduced, MB", "temporaries, GB", "roofline, ms"]
    lines = []
    for r in rows:
        sums = all_reduces(r)
        each = ", ".join(f"{c['count']} in {c['dtype']}" for c in sums)
        lines.append(
            [r["grad_reduce"], each, f"{sum(c['bytes'] for c in sums) / 1e6:.1f}",
             f"{r['temporary_bytes'] / 1e9:.2f}", f"{r['roofline_seconds'] * 1e3:.1f}"]
        )  # fmt: skip
    return page.table(head, lines)


def all_reduces(row: Row) -> list[Row]:
    """Returns the all-reduces in the compiler's report on a step, as dicts."""
    return [c for c in row["collectives"] if c["kind"] == "all-reduce"]


def gpus() -> str:
    """Returns the GPU compiler's report on Inception V3 on a host of eight GPUs, as a sentence.

    If the compiler is not installed, the sentence says so.
    """
    try:
        row = compiled(command("inception_v3", "h100:1x8", 64, "--recipe", "inception_v3_tpu"))
    except UsageError:
        return "Not compiled: it needs the extra `cuda`."
    sums = ", ".join(
        f"{c['count']} {c['kind']} in {c['dtype']}, {c['bytes'] / 1e6:.1f} MB"
        for c in row["collectives"]
    )
    return (
        f"{row['memory_bytes'] / 1e9:.2f} GB of the {row['capacity_bytes'] / 1e9:.1f} GB that JAX "
        f"uses of a GPU, of which {row['temporary_bytes'] / 1e9:.2f} GB are temporaries; {sums} "
        f"({row['compiler']})."
    )


def full_effort(row: Row) -> str:
    """Returns the report on a step compiled with `--compile-effort full`, as sentences."""
    left_out = ", ".join(f"{count} {kind}" for kind, count in row["without_cycles"].items())
    return (
        f"{row['cycles'] / 1e6:.1f} M cycles: {row['cycles_seconds'] * 1e3:.1f} ms at the chip's "
        f"clock, {row['cycles_images_per_second_per_chip']:,.0f} images/s/chip, "
        f"{row['cycles_share_of_peak']:.0%} of the peak. Operations without an estimate: "
        f"{left_out}. The roofline of the same program is {row['roofline_seconds'] * 1e3:.1f} ms; "
        "it includes the copies between the chip's memories."
    )


def main(options: Options) -> None:
    """Compiles training steps, and writes the sections of docs/pods.md."""
    target = options.docs / "pods.md"
    rows = [apart(network, arch) for arch in tqdm(options.archs, unit="network")]
    capacity = f"{rows[0]['capacity_bytes'] / 1e9:.1f} GB per chip for programs"
    setting = f"{SLICE}, {capacity}; {rows[0]['compiler']}."
    page.publish(target, "networks", setting, networks_table(rows))
    v3 = ["--recipe", "inception_v3_tpu"]
    slices = [apart(compiled, command("inception_v3", x, LANES, *v3)) for x in tqdm(SLICES)]
    setting = f"{LANES} images per chip; {rows[0]['compiler']}."
    page.publish(target, "slices", setting, slices_table(slices))
    on_slice = functools.partial(command, "inception_v3", SLICE, LANES, *v3)
    narrow = apart(compiled, on_slice("--grad-reduce", "bfloat16"))
    setting = f"{SLICE}, {LANES} images per chip; {rows[0]['compiler']}."
    page.publish(target, "reductions", setting, reductions_table([slices[0], narrow]))
    if options.full:
        found = full_effort(apart(compiled, on_slice("--compile-effort", "full")))
        page.publish(target, "full", setting, page.paragraph(found))
    page.publish(target, "gpus", "64 images per GPU.", page.paragraph(apart(gpus)))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

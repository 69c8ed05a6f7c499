"""What every network's training step would need and take on TPUs: writes docs/pods.md.

    python benchmarks/pods.py [--archs ARCH ...] [--full]

Needs the extra `tpu` and no TPU: every row is what `train/main.py --compile-only` finds for it,
with the compiler of the TPUs themselves. What has been compiled before is kept in the cache, so a
second run only traces; the first takes hours, most of them in the search for the largest batch.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import inception_jax as ij
from train.compile import topology, training_step
from train.errors import UsageError
from train.run.command_line import parse

PAGE = ROOT / "docs" / "pods.md"
SLICE = "v5e:2x2"
SLICES = ("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16")
LANES = 128  # images a chip: a multiple of it lies on the lanes of the vector unit

# Images that each chip has of a step: a replica's, where the recipe tells of replicas or is written
# for one; a quarter of Xception's 256; InceptionNeXt's authors had 128 (160 for atto) a GPU.
EACH = {"inception_next_atto": 160, "inception_next": 128, "xception": 64, "": 32}

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile the training step of every network."""

    archs: tuple[str, ...] = tuple(ij.list_models())
    """Networks in the first table."""
    full: bool = False
    """Compile Inception V3 at full effort too, for the compiler's cycles: a quarter of an hour."""


def images_each(arch: str) -> int:
    """Images a chip, by the recipe."""
    return next(count for start, count in EACH.items() if arch.startswith(start))


def command(arch: str, where: str, each: int, *more: str) -> list[str]:
    """The options of `train/main.py` for a row."""
    devices = len(topology.describe(where).devices)
    return ["--arch", arch, "--compile-only", where, "--dtype", "bfloat16",
            "--batch-size", str(each * devices), *more]  # fmt: skip


def compiled(options: list[str]) -> Row:
    """What the compiler says of a step."""
    config, dataset = parse(options)
    return training_step.compile_step(config, dataset, training_step.describe_topology(config))


def network(arch: str) -> Row:
    """A row of the first table."""
    config, dataset = parse(command(arch, SLICE, images_each(arch)))
    target = training_step.describe_topology(config)
    found = training_step.compile_step(config, dataset, target)
    largest = training_step.largest_batch(config, dataset, target)
    return {**found, "largest": largest // len(target.devices)}


def apart(function: Any, *arguments: Any) -> Any:
    """Runs a function in a process of its own, whose memory goes with it."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def networks_table(rows: list[Row]) -> str:
    """Every network on one host."""
    lines = [
        "| network | recipe | image | images a chip | memory a chip, GB | TFLOP a chip "
        "| roofline, ms | images/s/chip | share of peak | largest batch a chip |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| `{r['arch']}` | `{r['recipe']}` | {r['image_size']} "
            f"| {r['batch_size'] // r['devices']} | {r['memory_bytes'] / 1e9:.2f} "
            f"| {r['flops'] / 1e12:.2f} | {r['roofline_seconds'] * 1e3:.1f} "
            f"| {r['roofline_images_per_second_per_chip']:,.0f} "
            f"| {r['roofline_share_of_peak']:.0%} | {r['largest']} |"
        )
    return "\n".join(lines)


def slices_table(rows: list[Row]) -> str:
    """Inception V3 on more and more chips."""
    lines = [
        "| slice | chips | batch | arguments, GB | temporaries, GB | all-reduces | of them, MB "
        "| gradients, MB | roofline, ms | images/s, all chips |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        sums = [c for c in r["collectives"] if c["kind"] == "all-reduce"]
        dtypes = ", ".join(sorted({c["dtype"] for c in sums}))
        lines.append(
            f"| {r['topology']} | {r['chips']} | {r['batch_size']:,} "
            f"| {r['argument_bytes'] / 1e9:.3f} | {r['temporary_bytes'] / 1e9:.2f} "
            f"| {sum(c['count'] for c in sums)} in {dtypes} "
            f"| {sum(c['bytes'] for c in sums) / 1e6:.1f} "
            f"| {max(c['largest'] for c in sums) / 1e6:.1f} "
            f"| {r['roofline_seconds'] * 1e3:.1f} "
            f"| {r['roofline_images_per_second_per_chip'] * r['chips']:,.0f} |"
        )
    return "\n".join(lines)


def reductions_table(rows: list[Row]) -> str:
    """What the dtype of the gradients' sum changes."""
    lines = [
        "| `--grad-reduce` | all-reduces | of them, MB | temporaries, GB | roofline, ms |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        sums = [c for c in r["collectives"] if c["kind"] == "all-reduce"]
        each = ", ".join(f"{c['count']} in {c['dtype']}" for c in sums)
        lines.append(
            f"| {r['grad_reduce']} | {each} | {sum(c['bytes'] for c in sums) / 1e6:.1f} "
            f"| {r['temporary_bytes'] / 1e9:.2f} | {r['roofline_seconds'] * 1e3:.1f} |"
        )
    return "\n".join(lines)


def gpus() -> Row | None:
    """Inception V3 on a host of GPUs, if their compiler is installed."""
    options = ["--recipe", "inception_v3_tpu", "--compile-only", "h100:1x8"]
    try:
        topology.describe("h100:1x8")
    except UsageError:
        return None
    return compiled(
        ["--arch", "inception_v3", *options, "--dtype", "bfloat16", "--batch-size", "512"]
    )


def gpus_text(row: Row | None) -> str:
    """What the compiler for GPUs says of Inception V3."""
    if row is None:
        return "Not compiled: it needs the extra `cuda`."
    sums = ", ".join(
        f"{c['count']} {c['kind']} in {c['dtype']}, {c['bytes'] / 1e6:.1f} MB"
        for c in row["collectives"]
    )
    return (
        f"{row['memory_bytes'] / 1e9:.2f} GB of the {row['capacity_bytes'] / 1e9:.1f} that jax "
        f"takes of a GPU, {row['temporary_bytes'] / 1e9:.2f} of them temporaries; {sums} "
        f"({row['compiler']})."
    )


def full_effort(row: Row | None) -> str:
    """What the compiler says of Inception V3 at full effort."""
    if row is None:
        return "Not compiled: `python benchmarks/pods.py --full` does it."
    left_out = ", ".join(f"{count} {kind}" for kind, count in row["without_cycles"].items())
    return (
        f"{row['cycles'] / 1e6:.1f} M cycles, {row['cycles_seconds'] * 1e3:.1f} ms at the clock of "
        f"the chip, {row['cycles_images_per_second_per_chip']:,.0f} images/s/chip, "
        f"{row['cycles_share_of_peak']:.0%} of the peak; without an estimate: {left_out}. The "
        f"roofline of the same program, which counts the copies that it makes between the chip's "
        f"memories: {row['roofline_seconds'] * 1e3:.1f} ms."
    )


def main() -> None:
    """Compiles, and writes the page."""
    options = tyro.cli(Options, description=__doc__)
    rows = [apart(network, arch) for arch in tqdm(options.archs, unit="network")]
    each = ["--recipe", "inception_v3_tpu"]
    slices = [
        apart(compiled, command("inception_v3", where, LANES, *each)) for where in tqdm(SLICES)
    ]
    narrow = apart(
        compiled, command("inception_v3", SLICE, LANES, *each, "--grad-reduce", "bfloat16")
    )
    full = None
    if options.full:
        full = apart(
            compiled, command("inception_v3", SLICE, LANES, *each, "--compile-effort", "full")
        )
    page = _PAGE.format(
        gpus=gpus_text(apart(gpus)),
        compiler=rows[0]["compiler"],
        capacity=rows[0]["capacity_bytes"] / 1e9,
        networks=networks_table(rows),
        slices=slices_table(slices),
        reductions=reductions_table([slices[0], narrow]),
        full=full_effort(full),
    )
    PAGE.write_text(page)
    print(page)


_PAGE = """# On TPU pods

How to make a slice and train on it: [tpu_scripts](../tpu_scripts/README.md). What a step would need
and take there can be asked for without one:

```bash
pip install -e ".[train,tpu]"
python train/main.py --arch inception_v3 --compile-only v5e:4x4 --batch-size 2048 --dtype bfloat16
```

This compiles the very step that the same command without `--compile-only` would run, with the
compiler of the TPUs ({compiler}), for devices that are not there. Topologies are named as jax names
them: `v5e:4x4`, `v6e:8x8`, `v5p:4x4x4`, `v4:2x2x2` (two cores as one device), `tpu7x:2x2x1` (two
devices a chip), `2*v5e:4x4` (two slices), or by accelerator type, `v5litepod-16`. `h100:1x8`, one
host with eight, needs the extra `cuda`; that compiler tells memory and exchanges only. Reports are
kept in `$INCEPTION_JAX_CACHE`, by the program and the compiler.

Nothing on this page was measured on a TPU: the tables are the compiler's, made by
`python benchmarks/pods.py`. Memory, FLOPs and exchanges are those of the program that would run.
Times are models:

- **roofline** (`optimal_seconds`): every operation at the speed of the chip's peak or of its
  memory, whichever is slower, one after another. Nothing overlaps, nothing is tiled badly.
- **cycles** (`--compile-effort full`, ten times as long to compile): the estimates that the
  compiler chooses tilings by, summed over the program. They overrate loops over single elements 2.5
  to 4 times, and leave out exchanges, copies to and from the chip's memory, and the gradients of
  max pools; what they leave out is listed.

Neither knows the time of an exchange between chips, of waiting for data, or of the host. At the
default effort the compiler does without the search for tilings, which changes neither memory (by
more than half a percent) nor exchanges.

## Every network

On {slice}, four chips with {capacity:.1f} GB for programs each, in bfloat16, by its recipe for
ImageNet; "memory" is all that the step holds at once, arguments, temporaries and program. The
largest batch is found by search, to a sixteenth; where memory is short, the compiler keeps less and
computes more, so it is larger, and slower, than the first column of memory suggests. By itself the
compiler refuses only what is in use at the same time; here what its temporaries take with the gaps
between them has to fit too, because a program that is loaded asks for all of it. Near the end the
compiler's choices jump: of BN-Inception 1,552 images a chip do not fit, and 1,648 do.

{networks}

A batch of a multiple of 128 images a chip lies on the lanes of the vector unit, one of 32 leaves
three quarters of them empty unless channels do: prefer `--batch-size` 128 times the chips, with a
recipe for large batches (`inception_v3_tpu`), or `--bn-group 32` for statistics as the papers'
replicas had.

## Inception V3 on more chips

By recipe `inception_v3_tpu`, {lanes} images a chip, bfloat16.

{slices}

The program of one chip does not change with their number, and neither does what it exchanges: every
chip holds all parameters, and BatchNorm's statistics are those of the global batch. What the
estimates leave out grows: an all-reduce on the torus sends each number about twice whatever the
number of chips, but waits once for every chip on the way, and nearly all of these all-reduces carry
a few kilobytes that the next operation waits for. At 10 to 20 microseconds each on 256 chips they
would add 2 to 4 ms to a step. `--bn-group` of a chip's images, or fewer, takes them out.

### Sums of gradients

`--grad-reduce` says in what dtype the gradients of kernels are summed over the devices where the
network computes in bfloat16. float32, the default, costs twice the bytes of that one exchange; left
alone, XLA takes bfloat16: it sums what the backward convolutions return before that is cast, and
rounds each chip's gradient to eight bits on the way, whatever the number of chips. Biases, factors
and statistics are summed in float32 either way. The same step on {slice}:

{reductions}

### At full effort

Inception V3 on {slice}, {lanes} images a chip: {full}

## GPUs

`--compile-only h100:1x8`, Inception V3 at 64 images a GPU, bfloat16: {gpus}
""".replace("{slice}", SLICE).replace("{lanes}", str(LANES))


if __name__ == "__main__":
    main()

"""Compares the TPU compiler's estimates for this library's networks, their plain forms and Keras'.

    python benchmarks/tpu_estimates.py [--archs ARCH ...] [--modules ARCH.STAGE ...]
        [--family ARCH ...] [--full]

prints tables and writes them into docs/performance.md. Every row is a program that the TPU compiler
compiles without a TPU. The compiler is in the extra `tpu`. Keras' rows need `pip install keras`.
Compiled programs are cached. By default, the compiler works at quick effort. A network then takes a
minute or more, a module some seconds, and the default command half an hour.

A network is compiled in several forms. The form "plain" has none of the rewrites of
`inception_jax.nn.rewrites`, and "rewritten" has the default ones. The form "memory saving" is
"rewritten" with rematerialisation. The form "folded" is "rewritten" with BatchNorms folded into the
layers before them.

    python benchmarks/tpu_estimates.py --archs --modules --family $(inception-jax list)

compares every network with its plain form. This takes an hour or more.

    python benchmarks/tpu_estimates.py --archs inception_v3 --full

compiles modules and a network at full effort, as for a real run. This takes an hour.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import page
from benchmarks.tpu_programs import KERAS, Program, Work, keras_network, module, network
from train.compile import topology
from train.compile.compiler import Effort, compile_program
from train.compile.topology import Topology
from train.hosts import hardware

OPERATIONS = page.ROOT / "runs" / "tpu_operations"
MODULES = (
    "inception_v3.Mixed_5d",
    "inception_v3.Mixed_6a",
    "inception_v3.Mixed_6e",
    "inception_v3.Mixed_7a",
    "inception_v3.Mixed_7c",
    "inception_v4.Mixed_5b",
    "inception_v4.Mixed_6b",
    "inception_resnet_v2.block35.0",
    "inception_resnet_v2.block17.0",
    "inception_resnet_v2.block8.0",
    "xception.block3",
    "xception.block5",
    "inception_next_tiny.stages.2.blocks.0",
)

ELEMENTWISE = {"loop", "reduce", "copy", "slice", "concatenate", "select-and-scatter", "convert"}
# Share of the memory bandwidth that a streaming sum reaches on v5e, as the compiler estimates.
STREAMED = 738e9 / 819e9


@dataclasses.dataclass(frozen=True)
class Options(Work, page.Pages):
    """Compile networks and modules for TPUs in several forms, and compare the estimates."""

    archs: tuple[str, ...] = tuple(KERAS)
    """Networks whose forward pass and training step are compiled."""
    modules: tuple[str, ...] = MODULES
    """Single modules to compile in training mode: ARCH.ATTRIBUTE or ARCH.ATTRIBUTE.NUMBER."""
    topology: str = "v5e:2x2"
    """Chips to compile for, see `train/main.py --compile-only`."""
    family: tuple[str, ...] = ()
    """Networks to compare only with their plain forms, in a table with a line for each."""
    full: bool = False
    """Compile only modules and training steps, but at full effort, to get the compiler's cycles;
    takes ten times as long."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The compiler's estimates for a program on one chip.

    Attributes:
        what: name of a module, or name and mode of a network.
        form: name of the form: "plain", "rewritten", "memory saving" or "folded", see
            `tpu_programs.network`; "Keras 3" for Keras' network.
        seconds: seconds that the program takes by the roofline model.
        bytes: number of bytes that the program reads and writes.
        temporaries: number of bytes of temporary memory.
        cycles: total number of cycles.
        compile_seconds: seconds that the compilation took.
        operations: one dict for each operation, with name, kind, cycles, bytes and source.
    """

    what: str
    form: str
    seconds: float
    bytes: float
    temporaries: int
    cycles: int
    compile_seconds: float
    operations: list[dict[str, Any]]


# --- Compiling


def compiled(what: str, form: str, made: Program, options: Options, effort: Effort) -> Row:
    """Compiles a program for the topology in the options; returns the estimates as a `Row`.

    The compiler estimates time, memory traffic, temporary memory and cycles. The state is
    replicated, and the batch is split over the devices.

    Args:
        what: name of a module, or name and mode of a network.
        form: name of the form that `made` has, such as "plain", see `tpu_programs.network`. It is
            only copied to the result and shown in messages.
        made: program to compile.
        options: options with the topology.
        effort: effort of the compiler; "full" searches for the best tilings, "quick" does not.
    """
    target = described(options.topology)
    function, state, batch = made
    mesh = Mesh(np.array(target.devices), ("data",))
    whole, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

    def on(sharding: NamedSharding, times: int) -> Callable[[Any], jax.ShapeDtypeStruct]:
        return lambda a: jax.ShapeDtypeStruct(
            (a.shape[0] * times, *a.shape[1:]) if times > 1 else a.shape, a.dtype, sharding=sharding
        )

    state = jax.tree.map(on(whole, 1), state)
    batch = jax.tree.map(on(spread, len(target.devices)), batch)
    jitted = jax.jit(function, donate_argnums=0, out_shardings=(whole, None))
    found = compile_program(jitted.lower(state, *batch), target, effort, f"{what}, {form}")
    raw = found["optimal_seconds"]
    # The compiler subtracts a second for each operation that its model does not know.
    seconds = raw + min(found["custom_calls"], int(np.floor(1 - raw)))
    return Row(
        what,
        form,
        seconds,
        found["bytes_accessed"],
        found["temporary_bytes"],
        found["cycles"],
        found["compile_seconds"],
        found["operations"],
    )


@functools.cache
def described(name: str) -> Topology:
    """Returns the topology with a name such as v5e:2x2."""
    return topology.describe(name)


# --- Tables


def ratio(base: float, value: float) -> str:
    """Returns base / value as text, or "-" if the value is 0."""
    return f"{base / value:.2f}" if value else "-"


def table(rows: list[Row]) -> str:
    """Returns a Markdown table with a line for each program.

    A column "plain / this" is the value of the column before it for the plain form, divided by that
    of the program. Above 1, the program needs less time, traffic or memory than the plain form.
    """
    plain = {row.what: row for row in rows if row.form == "plain"}
    head = ["program", "form"]
    for what in ("roofline, ms", "GB", "temporaries, GB"):
        head += [what, "plain / this"]
    lines = []
    for row in rows:
        base = plain[row.what]
        cells = [row.what, row.form,
                 f"{row.seconds * 1e3:.2f}", ratio(base.seconds, row.seconds),
                 f"{row.bytes / 1e9:.2f}", ratio(base.bytes, row.bytes),
                 f"{row.temporaries / 1e9:.3f}", ratio(base.temporaries, row.temporaries),
                 f"{row.compile_seconds:.0f}"]  # fmt: skip
        lines.append(cells)
    return page.table([*head, "compiled in, s"], lines)


def cycles_table(rows: list[Row], kind: str) -> str:
    """Returns a Markdown table of the compiler's cycles, with a line for each program.

    Only at full effort does the compiler search for the best tilings; without the search, its
    cycles mean little. A column "plain / this" is the value for the plain form, divided by that of
    the program. Above 1, the program is faster than the plain form.

    Args:
        rows: estimates at full effort.
        kind: kind of the chip, as JAX names it.
    """
    plain = {row.what: row for row in rows if row.form == "plain"}
    head = ["program", "form", "M cycles", "plain / this", "in convolutions", "in other operations",
            "large operations without an estimate",
            "convolutions by cycles, the rest by bytes, ms", "plain / this"]  # fmt: skip
    lines = []
    for row in rows:
        base = plain[row.what]
        kinds = Counter()
        for operation in row.operations:
            kinds[operation["kind"] == "convolution"] += operation["cycles"] or 0
        missing = sum(o["cycles"] is None and o["bytes"] > 1e6 for o in row.operations)
        both = hybrid(base, kind), hybrid(row, kind)
        cells = [row.what, row.form,
                 f"{row.cycles / 1e6:.2f}", ratio(base.cycles, row.cycles),
                 f"{kinds[True] / 1e6:.2f}", f"{kinds[False] / 1e6:.2f}", missing,
                 f"{both[1] * 1e3:.2f}" if both[1] else "-", ratio(*both)]  # fmt: skip
        lines.append(cells)
    return page.table(head, lines)


def family_table(rows: list[Row]) -> str:
    """Returns a Markdown table with a line for each network.

    It compares the plain and the rewritten form.
    """
    found = {(*row.what.split(), row.form): row for row in rows}
    head = ["network"]
    for what in ("forward, plain, ms", "training step, plain, ms", "temporaries, plain, GB"):
        head += [what, "rewritten", "plain / rewritten"]
    lines = []
    for arch in dict.fromkeys(row.what.split()[0] for row in rows):
        cells = [f"`{arch}`"]
        for mode in ("infer", "train"):
            plain, ours = found[arch, mode, "plain"], found[arch, mode, "rewritten"]
            cells += [f"{plain.seconds * 1e3:.2f}", f"{ours.seconds * 1e3:.2f}",
                      ratio(plain.seconds, ours.seconds)]  # fmt: skip
        cells += [f"{plain.temporaries / 1e9:.3f}", f"{ours.temporaries / 1e9:.3f}",
                  ratio(plain.temporaries, ours.temporaries)]  # fmt: skip
        lines.append(cells)
    return page.table(head, lines)


def hybrid(row: Row, kind: str) -> float:
    """Estimates a program's seconds: convolutions by cycles, other operations by bandwidth.

    The cycles of other operations are not used, because the compiler overestimates elementwise
    loops 2.5 to 4 times. Returns 0 if the chip's clock or memory bandwidth is unknown.

    Args:
        row: the compiler's estimates.
        kind: kind of the chip, as JAX names it.
    """
    clock, bandwidth = hardware.clock(kind), hardware.bandwidth(kind)
    if not clock or not bandwidth:
        return 0.0
    convolutions = sum(o["cycles"] or 0 for o in row.operations if o["kind"] == "convolution")
    rest = sum(o["bytes"] for o in row.operations if o["kind"] in ELEMENTWISE)
    return convolutions / clock + rest / (bandwidth * STREAMED)


def keep_operations(row: Row, name: str) -> None:
    """Writes the operations of a program to runs/tpu_operations/NAME.csv.

    The operations with the most cycles come first. Operations without cycles are skipped if they
    read and write at most 100 kB.
    """
    OPERATIONS.mkdir(parents=True, exist_ok=True)
    ordered = sorted(row.operations, key=lambda o: (-(o["cycles"] or 0), -o["bytes"]))
    with (OPERATIONS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "kind", "cycles", "bytes", "source"])
        writer.writeheader()
        writer.writerows(o for o in ordered if o["cycles"] or o["bytes"] > 1e5)


def made(arch: str, form: str, mode: str, options: Options) -> Program:
    """Returns the program of a network in a form and mode; the form "Keras 3" is Keras' network.

    Args:
        arch: name of the network.
        form: "Keras 3", or a form of `tpu_programs.network`, such as "plain".
        mode: "train" or "infer".
        options: options with the batch size and the dtype.
    """
    if form == "Keras 3":
        return keras_network(arch, mode, options)
    return network(arch, form, mode, options)


def forms(arch: str, mode: str) -> list[str]:
    """Returns the names of the forms in which a network is compiled, in the order of the table.

    They are "plain", "rewritten", and for training "memory saving", for inference "folded"; see
    `tpu_programs.network`. If Keras is installed and has the network, "Keras 3" follows.

    Args:
        arch: name of the network.
        mode: "train" or "infer".
    """
    keras = arch in KERAS and importlib.util.find_spec("keras") is not None
    ours = ["plain", "rewritten", "memory saving" if mode == "train" else "folded"]
    return [*ours, "Keras 3"] if keras else ours


def main(options: Options) -> None:
    """Compiles the programs, prints tables and writes them into docs/performance.md."""
    if options.full:
        return at_full_effort(options)
    modules = [
        compiled(name, form, module(name, form, options), options, "quick")
        for name in tqdm(options.modules, desc="modules")
        for form in ("plain", "rewritten", "memory saving")
    ]
    if modules:
        publish("modules", options, table(modules))
    for mode in ("infer", "train"):
        rows = [
            compiled(f"{arch} {mode}", form, made(arch, form, mode, options), options, "quick")
            for arch in tqdm(options.archs, desc=mode)
            for form in forms(arch, mode)
        ]
        if rows:
            publish(mode, options, table(rows))
    rows = [
        compiled(f"{arch} {mode}", form, network(arch, form, mode, options), options, "quick")
        for arch in tqdm(options.family, desc="family")
        for mode in ("infer", "train")
        for form in ("plain", "rewritten")
    ]
    if rows:
        publish("family", options, family_table(rows))


def at_full_effort(options: Options) -> None:
    """Compiles the programs at full effort; publishes a table of the compiler's cycles."""
    rows = [
        compiled(name, form, module(name, form, options), options, "full")
        for name in tqdm(options.modules, desc="modules, full effort")
        for form in ("plain", "rewritten")
    ]
    for arch in tqdm(options.archs, desc="networks, full effort"):
        for form in ("plain", "rewritten"):
            program = made(arch, form, "train", options)
            rows.append(compiled(f"{arch} train", form, program, options, "full"))
            keep_operations(rows[-1], f"{arch}_{form}")
    publish("cycles", options, cycles_table(rows, described(options.topology).kind))


def publish(name: str, options: Options, text: str) -> None:
    """Prints a section and writes it into docs/performance.md, in place of the old one.

    Args:
        name: name of the section, without "tpu" at its start.
        options: options of the command; images per chip, dtype and topology are written above the
            table.
        text: table of the section.
    """
    compiler = described(options.topology).compiler
    work = f"{options.images} images per chip, {options.dtype}, {options.topology}; {compiler}."
    page.publish(options.docs / "performance.md", f"tpu {name}", work, text)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

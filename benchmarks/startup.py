"""How long a training run takes to its first step, and what its loop takes beside every step.

The first step: an empty process imports, builds the network and the first state, traces, compiles
and makes a step, once with an empty cache of compiled programs and once with that which the first
left; with the network's arithmetic rewritten (`inception_jax.rewrites`) and plain, in turn.

The loop: `train/engine/loop.py` as it is, around a step that takes and gives a state of as many
arrays as the network's and computes nothing, with batches that are ready. What is left is the
loop's own.

    python benchmarks/startup.py [--archs ARCH ...] [--loop-archs ARCH ...] [--no-first-step]

prints tables and writes them into docs/performance.md. Every row is found in a fresh process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import inception_jax as ij
from benchmarks import page

Row = dict[str, Any]

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
PHASES = ("import", "build", "trace", "compile", "first step")
TARGET = 2.0  # milliseconds a step that the loop may take


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the start of a run and its loop."""

    archs: tuple[str, ...] = (
        "inception_v3",
        "inception_resnet_v2",
        "xception",
        "inception_next_tiny",
    )
    """Networks whose first step is timed."""
    batch_size: int = 8
    """Images in the first step."""
    image_size: int | None = None
    """Side of the images in pixels; not given: the recipe's."""
    repeats: int = 1
    """How often every first step is timed; the middle counts."""
    loop_archs: tuple[str, ...] = tuple(ij.list_models())
    """Networks whose loop is timed."""
    loop_batch_size: int = 32
    """Images in a step of the loop."""
    loop_steps: int = 500
    """Steps of the loop that are timed."""
    first_step: bool = True
    """Time first steps."""
    loop: bool = True
    """Time loops."""
    page: Path = ROOT / "docs" / "performance.md"
    """Page whose sections are written."""


def main(options: Options) -> None:
    """Times everything and writes the sections."""
    if options.first_step and options.archs:
        load = page.load()
        text = first_step_section(first_steps(options), options, load)
        print(text)
        page.write_section(options.page, "startup", text)
    if options.loop and options.loop_archs:
        load = page.load()
        rows = [loop(arch, options) for arch in tqdm(options.loop_archs, "loops")]
        text = loop_section(rows, options, load)
        print(text)
        page.write_section(options.page, "loop", text)


def apart(function: str, arguments: dict[str, Any]) -> Row:
    """Runs a function of startup_parts.py in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.startup_parts", function, json.dumps(arguments)]
    environment = {**os.environ, **ENVIRONMENT}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # the run's own is what is timed
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{function} {arguments}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def first_steps(options: Options) -> list[Row]:
    """Rewritten and plain in turn, each cold and then with what that left in the cache."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    forms = {"plain": (), "rewritten": ij.REWRITES}
    bar = tqdm(total=2 * len(forms) * len(options.archs) * options.repeats, desc="first steps")
    with bar:
        for _ in range(options.repeats):
            for arch in options.archs:
                for form, rewrites in forms.items():
                    with tempfile.TemporaryDirectory() as folder:
                        for cache in ("empty", "filled"):
                            row = first_step(arch, rewrites, folder, options)
                            found.setdefault((arch, cache, form), []).append(row)
                            bar.update()
    return [
        {"arch": arch, "cache": cache, "form": form, **_medians(rows)}
        for (arch, cache, form), rows in sorted(found.items(), key=lambda item: item[0][:2])
    ]


def first_step(arch: str, rewrites: tuple[str, ...], folder: str, options: Options) -> Row:
    """Seconds of every phase."""
    arguments = {
        "arch": arch,
        "rewrites": rewrites,
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "folder": folder,
        "born": time.monotonic(),
    }
    row = apart("first_step", arguments)
    return {**row, "all": sum(row[phase] for phase in PHASES)}


def _medians(rows: list[Row]) -> Row:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def loop(arch: str, options: Options) -> Row:
    """Milliseconds of a step of the loop."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "arch": arch,
            "batch_size": options.loop_batch_size,
            "image_size": options.image_size,
            "steps": options.loop_steps,
            "folder": folder,
        }
        return {"arch": arch, **apart("loop", arguments)}


def first_step_table(rows: list[Row]) -> str:
    """A row for each network, state of the cache and form; a ratio beside the second form."""
    lines = [
        f"| network | cache | arithmetic | {' | '.join(f'{p}, s' for p in PHASES)} | all, s "
        "| rewritten / plain | memory, GB | rewritten / plain |",
        "|" + "---|" * (len(PHASES) + 7),
    ]
    plain = {(r["arch"], r["cache"]): r for r in rows if r["form"] == "plain"}
    for row in rows:
        base = plain[row["arch"], row["cache"]]
        rewritten = row["form"] == "rewritten"
        times = f"{row['all'] / base['all']:.2f}" if rewritten else ""
        memory = f"{row['peak_bytes'] / base['peak_bytes']:.2f}" if rewritten else ""
        phases = " | ".join(f"{row[phase]:.1f}" for phase in PHASES)
        lines.append(
            f"| `{row['arch']}` | {row['cache']} | {row['form']} | {phases} | {row['all']:.1f} "
            f"| {times} | {row['peak_bytes'] / 1e9:.2f} | {memory} |"
        )
    return "\n".join(lines)


def loop_table(rows: list[Row]) -> str:
    """A row for each network."""
    lines = [
        "| network | arrays in the state | a step, ms | of it the call | the loop |",
        "|" + "---|" * 5,
    ]
    for row in rows:
        lines.append(
            f"| `{row['arch']}` | {row['arrays']:,} | {row['all']:.2f} | {row['call']:.2f} "
            f"| {row['all'] - row['call']:.2f} |"
        )
    return "\n".join(lines)


def first_step_section(rows: list[Row], options: Options, load: float) -> str:
    """What the page says of first steps."""
    times = "Timed once." if options.repeats == 1 else f"The middle of {options.repeats} runs."
    about = f"""`{page.command()}`. A training step of the network's own recipe for
    ImageNet, with {options.batch_size} images, in a process that has done nothing before: `import`
    counts from the start of the process, `build` makes the network and the first state, `trace`
    takes the step from Python to StableHLO. The cache is jax's, of compiled programs, first empty
    and then as that run left it. Memory is the most that the process had. {times}"""
    return f"""## To the first step

{page.paragraph(about)}

{machine_line(load)}

{first_step_table(rows)}
"""


def loop_section(rows: list[Row], options: Options, load: float) -> str:
    """What the page says of loops."""
    about = f"""`{page.command()}`. `train/engine/loop.py` around a compiled step that takes a state
    of as many arrays as the network's, returns it and computes nothing but the next count; with
    {options.loop_batch_size} images of the recipe's size, which lie on the device. `call` is the
    time in the step's program, `the loop` everything else: the next batch from its thread, a line
    of the log in ten steps, signals, skipped steps, profiles, freeing the last state. Milliseconds
    of wall time, the middle over {options.loop_steps} steps in stretches of 50."""
    where = """On a CPU, jax runs programs as small as this one in the calling thread. A real step
    is started in another, so that the loop continues while it is computed, as on an accelerator."""
    outside = sum(row["all"] - row["call"] > TARGET for row in rows)
    inside = sum(row["all"] > TARGET for row in rows)
    found = f"""Without the call, {outside} of {len(rows)} networks take more than {TARGET:g} ms a
    step; with it, {inside}."""
    return f"""## The loop beside the step

{page.paragraph(about)}

{page.paragraph(where)}

{machine_line(load)}

{page.paragraph(found)}

{loop_table(rows)}
"""


def machine_line(load: float) -> str:
    """What it ran on, and what else that did."""
    versions = page.machine("jax", "flax", "optax")
    return page.paragraph(
        f"Machine: {versions}; {load:.1f} running processes in the minute before."
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Times the start of a training run up to the first step, and the overhead of the training loop.

The first step: a fresh process imports the libraries, builds the network and the first state, then
traces, compiles and runs a training step. One process has an empty cache of compiled programs. A
second one has the cache that the first process filled. Each network is timed without rewrites and
with all default rewrites of `inception_jax.nn.rewrites`, in turn.

The loop: `train/engine/loop.py` runs unchanged around a step that does not run the network. This
step takes and returns a state with as many arrays as in a real run. Batches are prepared in
advance. The remaining time is that of the loop itself.

    python benchmarks/startup.py [--archs ARCH ...] [--loop-archs ARCH ...] [--no-first-step]

prints tables and writes them into docs/performance.md. Every row is measured in a fresh process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # the run's own cache is timed

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import inception_jax as ij
from benchmarks import page
from benchmarks.workers import apart
from train.config.fields import override
from train.data.datasets import Dataset
from train.engine import functional
from train.engine.job import Job
from train.run import assembly, training
from train.run.command_line import Config, parse

Row = dict[str, Any]

PHASES = ("import", "build", "trace", "compile", "first step")
TARGET = 2.0  # milliseconds per step that the loop may take
UNTIMED = 50  # number of first steps, which are not timed
STRETCH = 50  # steps averaged into one measurement, as the garbage collector runs only sometimes


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Time the start of a run and its loop."""

    archs: tuple[str, ...] = (
        "inception_v3",
        "inception_resnet_v2",
        "xception",
        "inception_next_tiny",
    )
    """Networks whose first step is timed."""
    batch_size: int = 8
    """Number of images in the first step."""
    image_size: int | None = None
    """Side of the images in pixels; default: the recipe's."""
    repeats: int = 1
    """How often every first step is timed; the table has the median."""
    loop_archs: tuple[str, ...] = tuple(ij.list_models())
    """Networks whose loop is timed."""
    loop_batch_size: int = 32
    """Number of images in a step of the loop."""
    loop_steps: int = 500
    """Number of steps of the loop that are timed."""
    first_step: bool = True
    """Time first steps."""
    loop: bool = True
    """Time loops."""


def main(options: Options) -> None:
    """Times first steps and training loops, and writes sections of docs/performance.md."""
    target = options.docs / "performance.md"
    if options.first_step and options.archs:
        machine = page.machine("jax", "flax", "optax")
        times = "timed once" if options.repeats == 1 else f"median of {options.repeats} runs"
        setting = f"{options.batch_size} images, {times}. {machine}"
        page.publish(target, "startup", setting, first_step_table(first_steps(options)))
    if options.loop and options.loop_archs:
        machine = page.machine("jax", "flax", "optax")
        rows = [loop(arch, options) for arch in tqdm(options.loop_archs, "loops")]
        setting = f"{options.loop_batch_size} images, {options.loop_steps} steps. {machine}"
        outside = sum(row["all"] - row["call"] > TARGET for row in rows)
        inside = sum(row["all"] > TARGET for row in rows)
        found = f"""More than {TARGET:g} ms per step: {outside} of {len(rows)} networks without the
        call, {inside} with it."""
        page.publish(target, "loop", setting, page.paragraph(found), loop_table(rows))


# --- The first step


def first_steps(options: Options) -> list[Row]:
    """Times the first step of each network without and with rewrites, in turn.

    Each first step is timed with an empty cache of compiled programs, and then with a filled one.

    Returns:
        A dict for each network, cache ("empty" or "filled") and form ("plain" or "rewritten"). The
        keys are `arch`, `cache`, `form`, and those of `first_step`, with medians over all repeats;
        `all` has the sum of the phases.
    """
    found: dict[tuple[str, str, str], list[Row]] = {}
    forms = {"plain": (), "rewritten": ij.DEFAULT_REWRITES}
    runs = list(itertools.product(range(options.repeats), options.archs, forms))
    for _, arch, form in tqdm(runs, "first steps"):
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("empty", "filled"):
                config, dataset = configured(arch, folder, options.batch_size, options.image_size)
                config = override(config, {"rewrites": forms[form]})
                row = apart(first_step, config, dataset, time.monotonic())
                row["all"] = sum(row[phase] for phase in PHASES)
                found.setdefault((arch, cache, form), []).append(row)
    return [
        {"arch": arch, "cache": cache, "form": form, **_medians(rows)}
        for (arch, cache, form), rows in sorted(found.items(), key=lambda item: item[0][:2])
    ]


def _medians(rows: list[Row]) -> Row:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def configured(
    arch: str, folder: str, batch_size: int, image_size: int | None
) -> tuple[Config, Dataset]:
    """Returns a network's configuration for training on ImageNet, and a data set without images.

    The data set has the size and the classes of ImageNet.

    Args:
        arch: name of the network.
        folder: workdir of the run.
        batch_size: number of images in a step.
        image_size: side of the images in pixels; None: that of the recipe.
    """
    # Only `--compile-only` works without data; everything else is as in a real run.
    config, dataset = parse(
        ["--arch", arch, "--compile-only", "cpu", "--batch-size", str(batch_size)]
    )
    sizes = {} if image_size is None else {"image_size": image_size}
    return override(config, {"compile_only": None, "workdir": Path(folder), **sizes}), dataset


def first_step(config: Config, dataset: Dataset, born: float) -> Row:
    """Builds, compiles and runs the first training step, as `train/main.py` does.

    Args:
        config: configuration of the run, whose workdir has the cache of compiled programs.
        dataset: data set of the run.
        born: value of `time.monotonic()` when this process was started.

    Returns:
        A dict with the seconds of every phase in `PHASES`, and the peak memory of the process under
        `peak_bytes`.
    """
    import resource

    stamps = [("", born)]

    def done(phase: str) -> None:
        stamps.append((phase, time.monotonic()))

    done("import")
    job = assembly.assemble(config, dataset)
    done("build")
    training.keep_compiled(config)
    batch = job.devices.put(blank_batch(config))
    lowered = job.lower(batch)
    done("trace")
    compiled = lowered.compile()
    done("compile")
    jax.block_until_ready(compiled(job.state, batch))
    done("first step")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = {phase: then - before for (_, before), (phase, then) in itertools.pairwise(stamps)}
    return {**seconds, "peak_bytes": peak}


def first_step_table(rows: list[Row]) -> str:
    """Returns a Markdown table with a row for each network, cache and form.

    Ratios are rewritten / plain.
    """
    ratio = "rewritten / plain"
    head = ["network", "cache", "arithmetic", *(f"{phase}, s" for phase in PHASES)]
    head += ["all, s", ratio, "memory, GB", ratio]
    plain = {(r["arch"], r["cache"]): r for r in rows if r["form"] == "plain"}
    lines = []
    for row in rows:
        cells = [f"`{row['arch']}`", row["cache"], row["form"]]
        cells += [f"{row[phase]:.1f}" for phase in PHASES]
        for name, value in (
            ("all", f"{row['all']:.1f}"),
            ("peak_bytes", f"{row['peak_bytes'] / 1e9:.2f}"),
        ):
            base = plain[row["arch"], row["cache"]][name]
            cells += [value, f"{row[name] / base:.2f}" if row["form"] == "rewritten" else ""]
        lines.append(cells)
    return page.table(head, lines)


# --- The loop


def loop(arch: str, options: Options) -> Row:
    """Times the loop for a network in a fresh process.

    Returns:
        A dict with the network's name under `arch`, and the results of `time_loop`.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = configured(arch, folder, options.loop_batch_size, options.image_size)
        return {"arch": arch, **apart(time_loop, *run, options.loop_steps)}


class Ended(Exception):
    """The loop has made all requested steps."""


class TimedStep:
    """A compiled step that records when each call starts and ends.

    Args:
        compiled: compiled step to call.
        steps: number of calls; each further call raises `Ended`.

    Attributes:
        times: start and end of each call so far, in seconds by `time.perf_counter`.
    """

    def __init__(self, compiled: Any, steps: int):
        self.cost_analysis = compiled.cost_analysis
        self.times: list[tuple[float, float]] = []
        self._compiled, self._steps = compiled, steps

    def compile(self) -> Any:
        return self

    def __call__(self, *args: Any) -> Any:
        if len(self.times) == self._steps:
            raise Ended
        start = time.perf_counter()
        result = self._compiled(*args)
        self.times.append((start, time.perf_counter()))
        return result


def time_loop(config: Config, dataset: Dataset, steps: int) -> Row:
    """Times `train/engine/loop.py` around a compiled step that only increments the step counter.

    Everything is as in a real run, with three exceptions. The network takes no time, because the
    step does not run it. Input takes no time, because the batches are already on the devices. The
    run ends before it evaluates. `steps` steps are timed, after 50 that are not.

    Returns:
        A dict. `all` has the milliseconds of one iteration of the loop, and `call` the milliseconds
        of the compiled step's call in an iteration. These two are medians over means of 50 steps.
        `arrays` has the number of arrays in the state.
    """
    job = idle_job(config, dataset)
    batch = job.devices.put(blank_batch(config))
    step = TimedStep(job.lower(batch).compile(), UNTIMED + steps + 1)
    job.lower = lambda _: step
    job.devices.put = lambda batch: batch
    job.batches = lambda *_: contextlib.nullcontext(itertools.repeat({**batch, "notes": ()}))
    training.assemble = lambda *_: job
    with contextlib.suppress(Ended), contextlib.redirect_stdout(io.StringIO()):
        training.run(config, dataset)
    times = step.times[UNTIMED:]
    return {
        "arrays": len(jax.tree.leaves(job.state)),
        "all": middle([after - before for (before, _), (after, _) in itertools.pairwise(times)]),
        "call": middle([end - start for start, end in times[:-1]]),
    }


def idle_job(config: Config, dataset: Dataset) -> Any:
    """Returns a training job whose parameters are zeros.

    The job's step only increments the step counter in the state.
    """
    build = functional.build

    def zeros(*args: Any, **options: Any) -> Any:
        graphdef, state = nnx.split(nnx.eval_shape(lambda: build(*args, **options)))
        return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state))

    functional.build = zeros
    job: Job = assembly.assemble(config, dataset)

    def count(state: Any, batch: Any) -> Any:
        zero = 0.0 * batch["label"].sum()
        metrics = {"loss": zero, "accuracy": zero, "grad_norm": zero}
        return dataclasses.replace(state, step=state.step + 1), metrics

    job.phases = (dataclasses.replace(job.phases[-1], step=count),)
    return job


def blank_batch(config: Config) -> dict[str, np.ndarray]:
    """Returns a batch of black images, all with the label 0."""
    count, size = config.batch.batch_size, config.input.image_size
    return {"image": np.zeros((count, size, size, 3), np.uint8), "label": np.zeros(count, np.int32)}


def middle(seconds: list[float]) -> float:
    """Returns the median over means of 50 consecutive steps, in milliseconds.

    Args:
        seconds: seconds of each step.
    """
    stretches = [seconds[i : i + STRETCH] for i in range(0, len(seconds), STRETCH)]
    return 1e3 * statistics.median(sum(s) / len(s) for s in stretches)


def loop_table(rows: list[Row]) -> str:
    """Returns a Markdown table with a row for each network."""
    head = ["network", "arrays in the state", "step, ms", "call, ms", "loop, ms"]
    lines = []
    for row in rows:
        times = row["all"], row["call"], row["all"] - row["call"]
        lines.append([f"`{row['arch']}`", f"{row['arrays']:,}", *(f"{t:.2f}" for t in times)])
    return page.table(head, lines)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Compares the CPU speed of this library's networks with that of other implementations.

Every implementation runs in its own process and is warmed up before it is timed. In each round, all
implementations run, one at a time, and fast ones repeatedly. Other work on the machine therefore
affects all of them equally, and ratios compare times of the same round. The baseline is the PyTorch
twin with channels-last tensors, `torch_channels_last`. Implementations with the baseline's weights
and dtype are checked before the first round. If their results differ from the baseline's, they are
not timed.

    python benchmarks/cpu_speed.py [--archs ARCH ...] [--no-training] [--implementations NAME ...]

prints tables and writes them into docs/performance.md. It takes about an hour and a half on two
idle cores. `--results FILE` stores the times in a file; networks and batch sizes that are already
in the file are not timed again, so an interrupted run can be resumed.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# No JAX, PyTorch or Keras here: processes import this file before their environment is set.
from benchmarks import page
from benchmarks.implementations import BASELINE, INFERENCE, TRAINING, Task, random_model
from benchmarks.stored import save, saved
from benchmarks.workers import UnavailableError, Worker, in_turn

KINDS = {"inference": INFERENCE, "training": TRAINING}
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
# Largest difference from the baseline, relative to the largest logit in inference and to the first
# loss in training. In training, BatchNorm's statistics of few images amplify rounding errors.
TOLERANCE = {"inference": 1e-4, "training": 1e-3}
WARM_UP = 1  # untimed rounds


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Time networks on the CPU."""

    archs: tuple[str, ...] = (
        "inception_v1",
        "inception_v3",
        "inception_v4",
        "inception_resnet_v2",
        "xception",
        "inception_next_tiny",
    )
    """Networks whose inference is timed."""
    training_archs: tuple[str, ...] = (
        "inception_v3",
        "inception_resnet_v2",
        "xception",
        "inception_next_tiny",
    )
    """Networks whose training step is timed."""
    implementations: tuple[str, ...] = tuple(dict.fromkeys((*INFERENCE, *TRAINING)))
    """Implementations to time: jax_plain, jax_rewritten, jax_as_trained, jit_predict, bfloat16,
    keras, torch, torch_channels_last, torch_compile, timm, onnxruntime or openvino. The baseline,
    torch_channels_last, always runs."""
    batch_size: tuple[int, ...] = (1, 8, 32)
    """Numbers of images in a batch for inference."""
    training_batch_size: tuple[int, ...] = (4, 16)
    """Numbers of images in a training step."""
    image_size: int | None = None
    """Side of the images in pixels; default: the network's own."""
    rounds: int = 7
    """How often each implementation is timed."""
    inference: bool = True
    """Time inference."""
    training: bool = True
    """Time training steps."""
    compile_minutes: float = 10.0
    """Minutes that an implementation may take to get ready."""
    results: Path | None = None
    """File of times. What is in the file is not timed again; new times are added."""
    suffix: str = ""
    """Appended to the names of the page's sections, after a hyphen, so that they do not replace the
    usual ones."""


@dataclasses.dataclass
class Result:
    """Results of all implementations of one network with one batch size.

    Attributes:
        arch: name of the network.
        batch_size: number of images in a batch.
        image_size: side of the images in pixels.
        seconds: seconds of each round, by name of the implementation.
        left_out: reasons why implementations cannot run, by name of the implementation.
        wrong: relative differences from the baseline that exceed the tolerance, by name of the
            implementation.
        difference: largest relative difference from the baseline within the tolerance.
        idle: largest share of a core that an implementation used while another one ran.
    """

    arch: str
    batch_size: int
    image_size: int
    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    wrong: dict[str, float] = dataclasses.field(default_factory=dict)
    difference: float = 0.0
    idle: float = 0.0


def main(options: Options) -> None:
    """Times the networks on the CPU, and writes sections of docs/performance.md."""
    os.environ.update(ENVIRONMENT)
    unknown = set(options.implementations) - {*INFERENCE, *TRAINING}
    if unknown:
        raise SystemExit(f"unknown implementations: {', '.join(sorted(unknown))}")
    machine = page.machine("jax", "flax", "torch", "keras", "timm", "onnxruntime", "openvino")
    setting = {
        "machine": machine.partition(";")[0],
        "implementations": list(options.implementations),
        "image_size": options.image_size,
        "rounds": options.rounds,
    }
    done = saved(options.results, setting)
    wrong = []
    for kind in KINDS:
        results = []
        for arch, batch_size in wanted(kind, options):
            key = f"{kind} {arch} {batch_size}"
            if key not in done:
                done[key] = dataclasses.asdict(measure(arch, kind, batch_size, options))
                save(options.results, setting, done)
            results.append(Result(**done[key]))
        if results:
            publish(kind, results, options, machine)
        wrong += [f"{r.arch} {kind} {name}" for r in results for name in r.wrong]
    if wrong:
        raise SystemExit(f"not timed, because their numbers differ: {', '.join(wrong)}")


def wanted(kind: str, options: Options) -> list[tuple[str, int]]:
    """Returns the networks and batch sizes to time.

    Args:
        kind: "inference" or "training".
        options: options of the command.
    """
    if not getattr(options, kind):
        return []
    prefix = "training_" if kind == "training" else ""
    sizes = getattr(options, f"{prefix}batch_size")
    return [(arch, size) for arch in getattr(options, f"{prefix}archs") for size in sizes]


def measure(arch: str, kind: str, batch_size: int, options: Options) -> Result:
    """Times all implementations of a network; returns the results.

    Args:
        arch: name of the network.
        kind: "inference" or "training".
        batch_size: number of images in a batch.
        options: options with the implementations, image size and number of rounds.
    """
    names = [n for n in KINDS[kind] if n in options.implementations or n == BASELINE]
    bar = tqdm(
        total=len(names) * (1 + WARM_UP + options.rounds), desc=f"{arch} {kind} {batch_size}"
    )
    with tempfile.TemporaryDirectory() as folder, bar:
        task = make_task(arch, batch_size, options, Path(folder))
        result = Result(arch, batch_size, task.images.shape[1])
        workers = start(names, kind, task, options, result, bar)
        try:
            compare(workers, kind, result)
            bar.total = bar.n + len(workers) * (WARM_UP + options.rounds)
            in_turn(workers, WARM_UP, bar.update)
            result.seconds = in_turn(workers, options.rounds, bar.update)
            result.idle = max(worker.idle for worker in workers.values())
        finally:
            for worker in workers.values():
                worker.end()
    return result


def make_task(arch: str, batch_size: int, options: Options, folder: Path) -> Task:
    """Writes random weights to a file; returns a task with the file, random images and labels.

    Args:
        arch: name of the network.
        batch_size: number of images.
        options: options with the image size.
        folder: folder for the file.
    """
    import inception_jax as ij

    info = ij.model_info(arch)
    size = options.image_size or info.input_size
    weights = folder / "weights.safetensors"
    ij.save_weights(random_model(arch), weights)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(batch_size, size, size, 3)).astype(np.float32)
    labels = rng.integers(info.num_classes, size=batch_size).astype(np.int32)
    return Task(arch, weights, images, labels, page.available_cores())


def start(
    names: list[str], kind: str, task: Task, options: Options, result: Result, bar: Any
) -> dict[str, Worker]:
    """Starts a process for each implementation; as many start at a time as there are cores.

    Each process runs its implementation once, and then waits. Implementations that cannot run, or
    are not ready within the time limit, are added to `result.left_out`.

    Args:
        names: names of the implementations.
        kind: "inference" or "training".
        task: network and inputs that the implementations get.
        options: options with the time limit.
        result: result to change.
        bar: progress bar, which advances by one for each implementation.

    Returns:
        The processes by name of the implementation.
    """
    workers = {}
    with concurrent.futures.ThreadPoolExecutor(task.cores) as pool:
        waiting = {
            name: pool.submit(
                Worker,
                KINDS[kind][name].build,
                task,
                environment=KINDS[kind][name].environment,
                seconds=60 * options.compile_minutes,
            )
            for name in names
        }
        for name, future in waiting.items():
            try:
                workers[name] = future.result()
            except UnavailableError as reason:
                result.left_out[name] = " ".join(str(reason).split())
            bar.update()
    return workers


def compare(workers: dict[str, Worker], kind: str, result: Result) -> None:
    """Checks that implementations with the baseline's weights have the baseline's results.

    Implementations with different results are ended, removed from `workers`, and added to
    `result.wrong`.

    Args:
        workers: processes by name of the implementation.
        kind: "inference" or "training".
        result: result to change; it also gets the largest difference within the tolerance.

    Raises:
        SystemExit: if the baseline cannot run.
    """
    if BASELINE not in workers:
        raise SystemExit(f"{result.arch}: {BASELINE}: {result.left_out[BASELINE]}")
    expected = workers[BASELINE].first
    for name in [name for name in workers if KINDS[kind][name].ours]:
        difference = float(np.abs(workers[name].first - expected).max() / np.abs(expected).max())
        if difference <= TOLERANCE[kind]:
            result.difference = max(result.difference, difference)
        else:
            workers.pop(name).end()
            result.wrong[name] = difference


def publish(kind: str, results: list[Result], options: Options, machine: str) -> None:
    """Prints a section and writes it into docs/performance.md.

    The section has a table, descriptions of the implementations, and a list of the implementations
    that were not timed.

    Args:
        kind: "inference" or "training".
        results: results of all networks and batch sizes.
        options: options of the command.
        machine: description of the machine, see `page.machine`.
    """
    timed = {n: made for n, made in KINDS[kind].items() if any(n in r.seconds for r in results)}
    checks = f"""Those with this library's weights agree in their
    {"first loss" if kind == "training" else "logits"}, within
    {max(r.difference for r in results):.0e} of the largest number. While others ran, none used more
    than {max(r.idle for r in results):.1%} of a core."""
    page.publish(
        options.docs / "performance.md",
        f"cpu-{kind}" + (f"-{options.suffix}" if options.suffix else ""),
        f"{options.rounds} rounds. {machine}",
        table(results, [name for name in timed if name != BASELINE]),
        "\n".join(f"- `{name}`: {made.about}" for name, made in timed.items()),
        page.paragraph(checks),
        not_timed(results),
    )


def table(results: list[Result], names: list[str]) -> str:
    """Returns a Markdown table with a row for each result and a column for each implementation."""
    head = ["network", "pixels", "images", f"`{BASELINE}`, ms", *(f"`{name}`" for name in names)]
    rows = []
    for result in results:
        ms = f"{1e3 * statistics.median(result.seconds[BASELINE]):.0f}"
        cells = [cell(result, name) for name in names]
        rows.append([f"`{result.arch}`", result.image_size, result.batch_size, ms, *cells])
    return page.table(head, rows)


def cell(result: Result, name: str) -> str:
    """Returns a cell with the ratio of an implementation's time to the baseline's.

    The cell has the median over all rounds, the lowest and the highest ratio. It is empty if the
    implementation was not timed.
    """
    if name not in result.seconds:
        return ""
    pairs = zip(result.seconds[name], result.seconds[BASELINE], strict=True)
    return page.spread([own / base for own, base in pairs])


def not_timed(results: list[Result]) -> str:
    """Returns a Markdown list of the implementations that were not timed, with the reasons."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        wrong = {n: f"differs by {x:.0e} of the largest number" for n, x in result.wrong.items()}
        for name, reason in {**result.left_out, **wrong}.items():
            reasons.setdefault(f"`{name}`: {reason}", []).append(f"`{result.arch}`")
    reasons = {reason: list(dict.fromkeys(archs)) for reason, archs in reasons.items()}
    lines = [f"- {reason}: {', '.join(archs)}" for reason, archs in reasons.items()]
    return "\n".join(["Not timed:", "", *lines]) if lines else ""


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Measures speed, memory and accuracy of the networks on an NVIDIA GPU.

It times training and inference of this library's networks and of timm's networks under
`torch.compile`. The two libraries run in turn, each in its own process. It also measures the peak
memory of training, the difference between the logits on the GPU and on the CPU, and the speed of
FID. It checks whether two training runs have exactly equal losses.

    pip install "jax[cuda13]" timm
    python benchmarks/gpu.py

prints tables and writes them into docs/performance.md. No part of the benchmark is started after
eight minutes; run the same command again to measure the missing parts. `--smoke` runs all parts on
any machine, at sizes too small for meaningful numbers.
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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# No JAX or PyTorch here: processes import this file before their environment is set.
from benchmarks import gpu_programs as programs
from benchmarks import page
from benchmarks.fid_speed import make_folder
from benchmarks.implementations import Task, random_model
from benchmarks.stored import save, saved
from benchmarks.workers import LateError, UnavailableError, Worker, in_turn

# Two processes share the GPU's memory, so neither may allocate all of it.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
DETERMINISTIC = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
DTYPES = ("bfloat16", "float32")  # with float32, both libraries multiply matrices in TF32


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Measure networks on a GPU."""

    archs: tuple[str, ...] = (
        "inception_v3",
        "inception_resnet_v2",
        "xception",
        "inception_next_tiny",
    )
    """Networks to measure."""
    batch_size: int = 128
    """Number of images in a batch."""
    rounds: int = 7
    """How often each network is timed."""
    minutes: float = 8.0
    """Minutes after which no further part is started."""
    results: Path = page.ROOT / "runs" / "gpu.json"
    """File of results. Parts in the file are not measured again."""
    smoke: bool = False
    """Run all parts at the smallest sizes, on a GPU or a CPU, and write no page."""


Part = Callable[[], dict[str, Any]]


class Budget:
    """The time limit after which no further part is started.

    Args:
        minutes: minutes from now until the limit.
    """

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes

    @property
    def seconds(self) -> float:
        """Seconds left; negative after the limit."""
        return self._end - time.monotonic()


def main(options: Options) -> None:
    """Measures the missing parts, and writes all results into docs/performance.md.

    The results are saved after each part. With `smoke`, the tables are only printed.
    """
    os.environ.update(ENVIRONMENT)
    setting, budget = setting_of(options), Budget(options.minutes)
    done = saved(options.results, setting)
    with tempfile.TemporaryDirectory() as folder:
        parts = dict(parts_of(options, Path(folder), budget))
        missing = [key for key in parts if key not in done]
        for number, key in enumerate(missing):
            if budget.seconds <= 0:
                break
            print(f"{key} ...", flush=True)
            try:
                done[key] = parts[key]()
            except LateError as reason:
                if number:  # the next command has more time for this part
                    break
                done[key] = {"left_out": str(reason)}
            save(options.results, setting, done)
    publish(done, options, setting)
    if missing := [key for key in parts if key not in done]:
        print(f"\n{len(missing)} of {len(parts)} parts are missing: run the same command again")


def setting_of(options: Options) -> dict[str, Any]:
    """Returns a dict of what results depend on, such as GPU, package versions and batch size."""
    machine = page.machine("jax", "jaxlib", "flax", "torch", "timm").partition(";")[0]
    sizes = {"batch": options.batch_size, "rounds": options.rounds, "smoke": options.smoke}
    return {"card": card(), "machine": machine, **sizes}


def card() -> str:
    """Returns the GPU's name and driver version as text, or "no GPU"."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "no GPU"
    return answer.stdout.splitlines()[0]


def parts_of(options: Options, folder: Path, budget: Budget) -> Iterator[tuple[str, Part]]:
    """Yields the name of each part and the function that measures it.

    The most important parts come first. A part is one measurement, such as the speed of one network
    in one mode and dtype.

    Args:
        options: options of the command.
        folder: temporary folder for weights and images.
        budget: time limit, see `speed`.
    """
    task = partial(make_task, options, folder)
    for dtype in DTYPES:
        for arch in options.archs:
            for mode in ("inference", "training"):
                key = f"speed {arch} {mode} {dtype}"
                yield key, partial(speed, task, arch, mode, dtype, options, budget)
    for arch in options.archs:
        yield f"memory {arch}", partial(alone, programs.memory, task, arch, "bfloat16", budget)
    for arch in options.archs:
        yield f"parity {arch}", partial(alone, programs.parity, task, arch, "float32", budget)
    for name, environment in (("default", {}), ("deterministic", DETERMINISTIC)):
        arch = options.archs[0]
        yield (
            f"determinism {name}",
            partial(alone, programs.determinism, task, arch, "bfloat16", budget, environment),
        )
    yield "fid", partial(fid, options, folder, budget)


def make_task(options: Options, folder: Path, arch: str, dtype: str) -> Task:
    """Writes random weights to a file; returns a task with the file, random images and labels.

    Args:
        options: options with the batch size and `smoke`.
        folder: folder for the file.
        arch: name of the network.
        dtype: dtype of the computation.
    """
    import inception_jax as ij

    info = ij.model_info(arch)
    size = info.min_size if options.smoke else info.input_size
    weights = folder / f"{arch}.safetensors"
    if not weights.exists():
        ij.save_weights(random_model(arch), weights)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(options.batch_size, size, size, 3)).astype(np.float32)
    labels = rng.integers(info.num_classes, size=options.batch_size).astype(np.int32)
    return Task(arch, weights, images, labels, page.available_cores(), dtype)


def speed(
    task: Callable[..., Task], arch: str, mode: str, dtype: str, options: Options, budget: Budget
) -> dict[str, Any]:
    """Times this library's network and timm's in turn.

    Args:
        task: function that takes `arch` and `dtype` and returns the task of both networks.
        arch: name of the network.
        mode: "inference" or "training".
        dtype: dtype of the computation.
        options: options with the batch size and the number of rounds.
        budget: time limit. Each network may take the time that is left to get ready, but at least a
            minute.

    Returns:
        A dict of two dicts, whose keys are "ours" and "timm". `images_per_second` has the speeds in
        all rounds, and `left_out` the reason why an implementation was not timed.

    Raises:
        LateError: if an implementation is not ready in time.
    """
    training = mode == "training"
    builds = {
        "ours": partial(programs.ours, training=training),
        "timm": partial(programs.timm, training=training, compiled=not options.smoke),
    }
    workers, left_out = {}, {}
    try:
        for name, build in builds.items():
            try:
                workers[name] = Worker(build, task(arch, dtype), seconds=max(budget.seconds, 60))
            except LateError:
                raise
            except UnavailableError as reason:
                left_out[name] = str(reason)
        in_turn(workers, 1, lambda: None)
        seconds = in_turn(workers, options.rounds, lambda: None)
    finally:
        for worker in workers.values():
            worker.end()
    rates = {n: [options.batch_size / s for s in each] for n, each in seconds.items()}
    return {"images_per_second": rates, "left_out": left_out}


def alone(
    program: Callable[[Task], dict[str, Any]],
    task: Callable[..., Task],
    arch: str,
    dtype: str,
    budget: Budget,
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Runs a program in a new process that has the GPU to itself; returns the program's result.

    If the program cannot run, the result has only the reason, under `left_out`.

    Args:
        program: function that takes a task and returns the result.
        task: function that takes `arch` and `dtype` and returns the program's task.
        arch: name of the network.
        dtype: dtype of the computation.
        budget: time limit. The program may take the time that is left, but at least a minute.
        environment: environment variables to set in the process, besides the inherited ones.

    Raises:
        LateError: if the program does not end in time.
    """
    try:
        worker = Worker(
            partial(_once, program),
            task(arch, dtype),
            environment=environment,
            seconds=max(budget.seconds, 60),
        )
    except LateError:
        raise
    except UnavailableError as reason:
        return {"left_out": str(reason)}
    worker.end()
    return json.loads(worker.first)


def _once(program: Callable[[Task], dict[str, Any]], task: Task) -> Callable[[], Any]:
    return lambda: json.dumps(program(task))


def fid(options: Options, folder: Path, budget: Budget) -> dict[str, Any]:
    """Times FID's statistics of a folder of JPEG files.

    Args:
        options: options with the batch size and the number of rounds.
        folder: temporary folder for weights and images.
        budget: time limit. FID may take the time that is left to get ready, but at least a minute.

    Returns:
        A dict. `images_per_second` has the speed in each round, and `images` describes the files.
        If the program for FID cannot run, the dict has only the reason, under `left_out`.

    Raises:
        LateError: if FID is not ready in time.
    """
    import inception_jax as ij

    count, size = (4, 64) if options.smoke else (2048, 256)
    weights, images = folder / "fid.safetensors", folder / "images"
    ij.save_weights(random_model("inception_v3.fid"), weights)
    make_folder(images, count, size)
    batch = min(options.batch_size, count)
    try:
        worker = Worker(programs.fid, images, weights, batch, seconds=max(budget.seconds, 60))
    except LateError:
        raise
    except UnavailableError as reason:
        return {"left_out": str(reason)}
    try:
        seconds = in_turn({"ours": worker}, min(options.rounds, 3), lambda: None)["ours"]
    finally:
        worker.end()
    return {
        "images_per_second": [count / s for s in seconds],
        "images": f"{count} of {size}x{size}",
    }


def publish(done: dict[str, Any], options: Options, setting: dict[str, Any]) -> None:
    """Prints all tables; writes them into docs/performance.md unless `options.smoke` is set.

    Args:
        done: results by name of the part.
        options: options of the command.
        setting: descriptions of the GPU, under `card`, and of the machine, under `machine`.
    """
    about = (
        f"{options.batch_size} images at once, {options.rounds} rounds. {setting['card']}. "
        f"{setting['machine']}."
    )
    page.publish(
        None if options.smoke else options.docs / "performance.md",
        "gpu",
        about,
        speed_table(done),
        per_arch(done, "memory", {"peak": "peak, GB", "compiler": "by the compiler, GB"}),
        per_arch(done, "parity", {p: f"`{p}`" for p in programs.PRECISIONS}),
        others(done),
    )


def speed_table(done: dict[str, Any]) -> str:
    """Returns a Markdown table of speeds with a row for each network, mode and dtype.

    The reasons why an implementation was not timed follow as a list.

    Args:
        done: results by name of the part.
    """
    rows, notes = [], []
    for key, found in done.items():
        kind, *names = key.split()
        if kind != "speed" or "images_per_second" not in found:
            continue
        rates = found["images_per_second"]
        cells = [
            f"{statistics.median(rates[n]):.0f}" if n in rates else "" for n in ("ours", "timm")
        ]
        both = zip(rates.get("ours", []), rates.get("timm", []), strict=False)
        ratios = [own / other for own, other in both]
        rows.append([*names, *cells, page.spread(ratios) if ratios else ""])
        notes += [f"- {' '.join(names)}, {n}: {why}" for n, why in found["left_out"].items()]
    head = ["network", "mode", "dtype", "ours, images/s", "timm, images/s", "ours / timm"]
    return "\n\n".join(filter(None, [page.table(head, rows), "\n".join(notes)]))


def per_arch(done: dict[str, Any], kind: str, columns: dict[str, str]) -> str:
    """Returns a Markdown table of one kind of results, with a row for each network.

    It is "" if there are no such results.

    Args:
        done: results by name of the part.
        kind: "memory", or "parity" for the difference between the GPU's and the CPU's logits.
        columns: headings of the columns, by key of a result.
    """
    rows = []
    for key, found in done.items():
        if key.startswith(f"{kind} "):
            values = [found.get(column) for column in columns]
            rows.append(
                [key.removeprefix(f"{kind} "), *("" if v is None else f"{v:.2g}" for v in values)]
            )
    return page.table([f"{kind} of a network", *columns.values()], rows) if rows else ""


def others(done: dict[str, Any]) -> str:
    """Returns a Markdown list: whether two runs are equal, FID's speed, and parts that failed.

    Args:
        done: results by name of the part.
    """
    lines = []
    for name in ("default", "deterministic"):
        if (found := done.get(f"determinism {name}")) and "equal" in found:
            answer = "are equal to the last bit" if found["equal"] else "differ"
            lines.append(f"- Two runs, {name}: their losses {answer}.")
    if (found := done.get("fid")) and "images_per_second" in found:
        rate = statistics.median(found["images_per_second"])
        lines.append(f"- FID: {rate:.0f} images/s, {found['images']}, from files to statistics.")
    left_out = [
        f"- {key}: {found['left_out']}"
        for key, found in done.items()
        if isinstance(found.get("left_out"), str)
    ]
    return "\n".join(lines + left_out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""How long networks take on this machine's CPU, beside other implementations of them.

Every implementation lives in a process of its own, made ready and warmed up before anything is
timed. Then they run one after another, once in each round, while the others wait: what else the
machine does meets all alike, and ratios are of times in the same round. Those that compute with the
same weights are compared first; one that disagrees is not timed.

    python benchmarks/cpu_speed.py [--archs ARCH ...] [--no-training] [--implementations NAME ...]

prints tables and writes them into docs/performance.md. About 25 minutes on two idle cores.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# No jax, torch or Keras here: the processes import this file, before their environment is set.
from benchmarks import page
from benchmarks.implementations import (
    BASELINE,
    INFERENCE,
    TRAINING,
    Task,
    UnavailableError,
    random_model,
)

KINDS = {"inference": INFERENCE, "training": TRAINING}
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
# Of the largest logit; of the first loss, in which BatchNorm's statistics of few images amplify
# rounding.
TOLERANCE = {"inference": 1e-4, "training": 1e-3}
WARM_UP = 1  # rounds that do not count
GRACE = 5  # seconds in which a process may end by itself
PAUSE = 0.05  # seconds after a run in which its threads come to rest


@dataclasses.dataclass(frozen=True)
class Options:
    """Time networks on the CPU."""

    archs: tuple[str, ...] = (
        "inception_v1",
        "inception_v3",
        "inception_v4",
        "inception_resnet_v2",
        "xception",
        "inception_next_tiny",
    )
    """Networks that compute logits."""
    training_archs: tuple[str, ...] = ("inception_v3", "inception_resnet_v2", "xception")
    """Networks that are trained."""
    implementations: tuple[str, ...] = tuple(dict.fromkeys((*INFERENCE, *TRAINING)))
    """Some of: jax_plain, jax_rewritten, jit_predict, keras, torch, torch_channels_last,
    torch_compile, timm, onnxruntime. The one that others are compared with always runs."""
    batch_size: int = 8
    """Images that logits are computed of at once."""
    training_batch_size: int = 4
    """Images in a training step."""
    image_size: int | None = None
    """Side of the images in pixels; not given: the network's own."""
    rounds: int = 7
    """How often everything is timed."""
    inference: bool = True
    """Time inference."""
    training: bool = True
    """Time training steps."""
    compile_minutes: float = 10.0
    """How long an implementation may take to be made ready."""
    page: Path = ROOT / "docs" / "performance.md"
    """Page whose sections are written."""


@dataclasses.dataclass
class Result:
    """What was found of a network.

    Attributes:
        image_size: side of the images in pixels.
        seconds: of each round, by implementation.
        left_out: why an implementation could not be timed.
        wrong: by how much an implementation's numbers are not the baseline's, though they should.
        difference: the largest from the baseline's numbers, of those with the same weights.
        idle: the largest share of a core that an implementation used while others ran.
    """

    arch: str
    image_size: int
    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    wrong: dict[str, float] = dataclasses.field(default_factory=dict)
    difference: float = 0.0
    idle: float = 0.0


def main(options: Options) -> None:
    """Times everything and writes the sections."""
    os.environ.update(ENVIRONMENT)
    unknown = set(options.implementations) - {*INFERENCE, *TRAINING}
    if unknown:
        raise SystemExit(f"unknown implementations: {', '.join(sorted(unknown))}")
    wrong = []
    for kind, archs in (("inference", options.archs), ("training", options.training_archs)):
        if not getattr(options, kind) or not archs:
            continue
        load = page.load()
        results = [measure(arch, kind, options) for arch in archs]
        text = section(kind, results, options, load)
        print(text)
        page.write_section(options.page, f"cpu-{kind}", text)
        wrong += [f"{r.arch} {kind} {name}" for r in results for name in r.wrong]
    if wrong:
        raise SystemExit(f"computed something else, and not timed: {', '.join(wrong)}")


def measure(arch: str, kind: str, options: Options) -> Result:
    """Times all implementations of a network."""
    names = [n for n in KINDS[kind] if n in options.implementations or n == BASELINE]
    bar = tqdm(total=len(names) * (1 + WARM_UP + options.rounds), desc=f"{arch} {kind}")
    with tempfile.TemporaryDirectory() as folder, bar:
        task = make_task(arch, kind, options, Path(folder))
        result = Result(arch, task.images.shape[1])
        workers = start(names, kind, task, options, result, bar)
        try:
            compare(workers, kind, options.rounds, result, bar)
            run_in_turn(workers, options.rounds, result, bar)
        finally:
            for worker in workers.values():
                worker.end()
    return result


def make_task(arch: str, kind: str, options: Options, folder: Path) -> Task:
    """Random weights in a file, random images and labels."""
    import inception_jax as ij

    info = ij.model_info(arch)
    size = options.image_size or info.input_size
    count = options.training_batch_size if kind == "training" else options.batch_size
    weights = folder / "weights.safetensors"
    ij.save_weights(random_model(arch), weights)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(count, size, size, 3)).astype(np.float32)
    labels = rng.integers(info.num_classes, size=count).astype(np.int32)
    return Task(arch, weights, images, labels, page.available_cores())


class Worker:
    """An implementation in a process of its own, which waits until it is told to run.

    Attributes:
        first: the numbers of its first run.
        idle: the largest share of a core that it used while it waited.
    """

    def __init__(self, name: str, kind: str, task: Task, seconds: float):
        """Starts it and waits until it is ready.

        Raises:
            UnavailableError: if it does not come to be.
        """
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(theirs, name, kind, task), daemon=True)
        self._process.start()
        theirs.close()
        self.idle = 0.0
        try:
            if not self._connection.poll(seconds):
                raise UnavailableError(f"not ready after {seconds / 60:g} minutes")
            answer, content = self._connection.recv()
            if answer == "unavailable":
                raise UnavailableError(content)
        except (UnavailableError, EOFError) as error:
            self.end()
            raise UnavailableError(str(error) or f"exit code {self._process.exitcode}") from None
        self.first: np.ndarray = content

    def run(self) -> float:
        """Lets it compute once; returns the seconds that took."""
        self._connection.send("run")
        seconds, idle = self._connection.recv()
        self.idle = max(self.idle, idle)
        return seconds

    def end(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(GRACE)
        self._process.kill()
        self._process.join()


def serve(connection: Connection, name: str, kind: str, task: Task) -> None:
    """The process: makes an implementation ready, then runs it as often as it is told to."""
    implementation = KINDS[kind][name]
    os.environ.update({**ENVIRONMENT, **implementation.environment})
    try:
        run = implementation.build(task)
        connection.send(("ready", run()))
    except UnavailableError as reason:
        connection.send(("unavailable", str(reason)))
        return
    except Exception as error:  # of a library that this benchmark does not know
        connection.send(("unavailable", f"{type(error).__name__}: {error}"[:300]))
        return
    while True:
        used, start = time.process_time(), time.perf_counter()
        try:
            connection.recv()
        except EOFError:
            return
        now = time.perf_counter()
        idle = (time.process_time() - used) / max(now - start, PAUSE)
        run()
        connection.send((time.perf_counter() - now, idle))


def start(
    names: list[str], kind: str, task: Task, options: Options, result: Result, bar: Any
) -> dict[str, Worker]:
    """Makes implementations ready, as many at a time as there are cores."""
    workers = {}
    with concurrent.futures.ThreadPoolExecutor(task.cores) as pool:
        limit = 60 * options.compile_minutes
        waiting = {name: pool.submit(Worker, name, kind, task, limit) for name in names}
        for name, future in waiting.items():
            try:
                workers[name] = future.result()
            except UnavailableError as reason:
                result.left_out[name] = " ".join(str(reason).split())
                bar.total -= WARM_UP + options.rounds
            bar.update()
    return workers


def compare(workers: dict[str, Worker], kind: str, rounds: int, result: Result, bar: Any) -> None:
    """Takes out what does not compute the baseline's numbers from the same weights."""
    if BASELINE not in workers:
        raise SystemExit(f"{result.arch}: {BASELINE}: {result.left_out[BASELINE]}")
    expected = workers[BASELINE].first
    for name in [name for name in workers if KINDS[kind][name].ours]:
        difference = float(np.abs(workers[name].first - expected).max() / np.abs(expected).max())
        if difference <= TOLERANCE[kind]:
            result.difference = max(result.difference, difference)
            continue
        workers.pop(name).end()
        result.wrong[name] = difference
        bar.total -= WARM_UP + rounds


def run_in_turn(workers: dict[str, Worker], rounds: int, result: Result, bar: Any) -> None:
    """One run of each in every round."""
    result.seconds = {name: [] for name in workers}
    for i in range(WARM_UP + rounds):
        for name, worker in workers.items():
            seconds = worker.run()
            time.sleep(PAUSE)
            if i >= WARM_UP:
                result.seconds[name].append(seconds)
            bar.update()
    result.idle = max(worker.idle for worker in workers.values())


def ratios(result: Result, name: str) -> list[float]:
    """An implementation's time over the baseline's, in every round."""
    pairs = zip(result.seconds[name], result.seconds[BASELINE], strict=True)
    return [own / base for own, base in pairs]


def table(kind: str, results: list[Result]) -> str:
    """One row a network, one column an implementation."""
    names = [n for n in KINDS[kind] if n != BASELINE and any(n in r.seconds for r in results)]
    lines = [
        f"| network | pixels | `{BASELINE}`, ms | " + " | ".join(f"`{n}`" for n in names) + " |",
        "|" + "---|" * (3 + len(names)),
    ]
    for result in results:
        base = 1e3 * statistics.median(result.seconds[BASELINE])
        cells = [cell(result, name) for name in names]
        lines.append(
            f"| `{result.arch}` | {result.image_size} | {base:.0f} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def cell(result: Result, name: str) -> str:
    """The middle ratio, with the lowest and the highest."""
    if name not in result.seconds:
        return ""
    values = ratios(result, name)
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def section(kind: str, results: list[Result], options: Options, load: float) -> str:
    """What the page says."""
    known = KINDS[kind]
    timed = [n for n in known if any(n in r.seconds for r in results)]
    legend = "\n".join(f"- `{name}`: {known[name].about}" for name in timed)
    batch = options.training_batch_size if kind == "training" else options.batch_size
    what = {
        "inference": f"Logits of {batch} images at once, in float32.",
        "training": f"A step of gradient descent on {batch} images, in float32: forward, cross "
        "entropy, backward, update; dropout and stochastic depth are off.",
    }[kind]
    compared = {"inference": "logits", "training": "first loss"}[kind]
    about = f"""`{page.command()}`. {what} Each number is the time over that of
    `{BASELINE}` in the same round, so that less than 1 is faster: the middle of {options.rounds}
    rounds, with the lowest and the highest. The implementations run in turn, each in a process of
    its own, with all cores."""
    checks = f"""Those with this library's weights agree in their {compared}, within
    {max(r.difference for r in results):.0e} of the largest number. While others ran, none used more
    than {max(r.idle for r in results):.1%} of a core."""
    return f"""## {kind.capitalize()} on a CPU

{page.paragraph(about)}

{machine_line(load)}

{table(kind, results)}

{legend}

{page.paragraph(checks)}
{not_timed(results)}"""


def not_timed(results: list[Result]) -> str:
    """A list of what is missing in the table, and why."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        wrong = {n: f"differs by {x:.0e} of the largest number" for n, x in result.wrong.items()}
        for name, reason in {**result.left_out, **wrong}.items():
            reasons.setdefault(f"`{name}`: {reason}", []).append(f"`{result.arch}`")
    lines = [f"- {reason}: {', '.join(archs)}" for reason, archs in reasons.items()]
    return "\nNot timed:\n\n" + "\n".join(lines) + "\n" if lines else ""


def machine_line(load: float) -> str:
    """What it ran on, and what else that did."""
    return page.paragraph(
        f"Machine: {page.machine()}; {load:.1f} running processes in the minute before."
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

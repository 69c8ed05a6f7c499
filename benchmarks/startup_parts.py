"""What benchmarks/startup.py runs in fresh processes: a first step, and a loop without work.

    python -m benchmarks.startup_parts first_step|loop '{"arch": ..., ...}'

from the checkout; the last line of standard output is the result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import itertools
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

UNTIMED = 50  # steps before those that are timed
STRETCH = 50  # steps whose mean is one measurement: the garbage collector comes now and then


def first_step(
    arch: str,
    rewrites: list[str],
    batch_size: int,
    image_size: int | None,
    folder: str,
    born: float,
) -> dict[str, Any]:
    """Goes from an empty process to the end of a training step, as `train/main.py` does.

    Args:
        arch: the network, with the recipe that it has for ImageNet.
        rewrites: of the network's arithmetic that are used.
        batch_size: images in a step.
        image_size: side of the images in pixels; None: the recipe's.
        folder: of the run, with the cache of compiled programs.
        born: when the process was started, by `time.monotonic`.

    Returns:
        Seconds of every phase; `peak_bytes` of the process's memory.
    """
    import resource

    stamps = [("", born)]

    def done(phase: str) -> None:
        stamps.append((phase, time.monotonic()))

    import jax
    import numpy as np

    from train.engine import job

    settings, dataset = configured(arch, folder, batch_size, image_size, rewrites=tuple(rewrites))
    done("import")
    this = job.prepare(settings, dataset)
    done("build")
    job.keep_compiled(settings)
    size = settings.image_size
    batch = this.devices.put(
        {
            "image": np.zeros((batch_size, size, size, 3), np.uint8),
            "label": np.zeros(batch_size, np.int32),
        }
    )
    lowered = this.lower(batch)
    done("trace")
    compiled = lowered.compile()
    done("compile")
    jax.block_until_ready(compiled(this.packed, batch))
    done("first step")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = {phase: then - before for (_, before), (phase, then) in itertools.pairwise(stamps)}
    return {**seconds, "peak_bytes": peak}


def configured(
    arch: str, folder: str, batch_size: int, image_size: int | None, **more: Any
) -> tuple[Any, Any]:
    """The configuration of a network's training on ImageNet, and ImageNet without its images."""
    from train.config import options as config

    # To compile only needs no data; the rest of the configuration is that of a run.
    settings, dataset = config.parse(
        ["--arch", arch, "--compile-only", "cpu", "--batch-size", str(batch_size)]
    )
    sizes = {} if image_size is None else {"image_size": image_size}
    options = {"compile_only": None, "workdir": Path(folder), **sizes, **more}
    return dataclasses.replace(settings, **options), dataset


class Ended(Exception):
    """The loop has made all steps that were asked for."""


class Clock:
    """Seconds that named parts of a loop take, step by step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def start_step(self) -> None:
        """Starts a step."""
        self.steps.append({"all": -time.perf_counter()})

    def end_step(self) -> None:
        """Ends the last step, if there is one."""
        if self.steps:
            self.steps[-1]["all"] += time.perf_counter()

    def timed(self, name: str, function: Any) -> Any:
        """Returns the function with its time counted as a part."""

        def call(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            part = self.steps[-1]
            part[name] = part.get(name, 0.0) + time.perf_counter() - start
            return result

        return call

    def collector(self, phase: str, _: Any) -> None:
        """Counts what Python's garbage collector takes, inside whatever part it comes in."""
        if self.steps:
            sign = -1 if phase == "start" else 1
            part = self.steps[-1]
            part["garbage"] = part.get("garbage", 0.0) + sign * time.perf_counter()


def loop(
    arch: str, batch_size: int, image_size: int | None, steps: int, folder: str
) -> dict[str, Any]:
    """Times `train/loop.py` around a compiled step that takes and gives a state and does nothing.

    All is a run's own but for three things: the step's program only counts, so that no time is the
    network's; batches are ready, so that none is the decoder's; and the run is cut off before it
    evaluates.

    Returns:
        Milliseconds a step: `all` and of every part the middle over stretches of 50 steps;
        `arrays` in the state as the step takes it; `tree`, of what the call takes, for taking it
        apart and putting it together.
    """
    from train.data import loader, pipeline
    from train.engine import job
    from train.engine import loop as training

    settings, dataset = configured(arch, folder, batch_size, image_size)
    this = idle_job(settings, dataset)
    clock = Clock()
    gc.callbacks.append(clock.collector)
    batch = ready_batch(settings)

    on_devices, lower = training.ahead.on_devices, this.lower
    training.ahead.on_devices = functools.partial(TimedBatches, on_devices, clock, UNTIMED + steps)
    this.lower = lambda batch: TimedStep(lower(batch).compile(), clock)
    training._Run._log = as_method(clock.timed("log", training._Run._log))
    training.Reporter.tick = as_method(call_ended(training.Reporter.tick, clock))
    job.prepare = lambda *_: this
    pipeline.train_batches = lambda *_: loader.Batches(itertools.repeat(batch), lambda _: None)  # pyright: ignore
    with contextlib.suppress(Ended):
        training.run(settings, dataset)
    timed = clock.steps[UNTIMED : UNTIMED + steps]
    parts = ("all", "input", "call", "log", "garbage")
    return {
        "arrays": len(_leaves(this.packed)),
        "image_bytes": batch["image"].nbytes,
        **{part: middle([step.get(part, 0.0) for step in timed]) for part in parts},
        "tree": tree_milliseconds(this.packed),
    }


class TimedBatches(contextlib.AbstractContextManager):
    """Batches on the devices, whose every asking ends a step and starts another.

    In between, untimed, the thread that reads ahead gets done, as it does while devices compute.

    Raises:
        Ended: after so many steps.
    """

    def __init__(self, on_devices: Any, clock: Clock, steps: int, batches: Any, put: Any):
        self._steps = steps
        self._read = threading.Semaphore(0)
        self._batches, self._clock = on_devices(batches, self._counted(put)), clock

    def __enter__(self) -> Any:
        self._next = self._clock.timed("input", self._batches.__enter__().__next__)
        self._read.acquire()
        return self

    def __exit__(self, *error: Any) -> None:
        self._batches.__exit__(*error)

    def __next__(self) -> Any:
        self._clock.end_step()
        if len(self._clock.steps) == self._steps:
            raise Ended
        self._read.acquire()
        self._clock.start_step()
        return self._next()

    def _counted(self, put: Any) -> Any:
        def counted(batch: Any) -> Any:
            arrays = put(batch)
            self._read.release()
            return arrays

        return counted


class TimedStep:
    """A compiled step that says when it is called."""

    def __init__(self, compiled: Any, clock: Clock):
        self.cost_analysis = compiled.cost_analysis
        self._compiled, self._clock = compiled, clock

    def compile(self) -> Any:
        return self

    def __call__(self, *args: Any) -> Any:
        self._clock.steps[-1]["call"] = -time.perf_counter()
        return self._compiled(*args)


def call_ended(tick: Any, clock: Clock) -> Any:
    """Ends the call where the loop goes on: then the last state's arrays are gone, too."""

    def ended(*args: Any) -> Any:
        clock.steps[-1]["call"] += time.perf_counter()
        return tick(*args)

    return ended


def as_method(function: Any) -> Any:
    """Makes a method of what takes `self` first."""
    return lambda self, *args: function(self, *args)


def idle_job(settings: Any, dataset: Any) -> Any:
    """A run's job with zeros for parameters and a step that only counts.

    Its state is packed as for an accelerator.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from train.engine import job, packing

    build = job.build_model

    def zeros(*args: Any) -> Any:
        graphdef, state = nnx.split(nnx.eval_shape(lambda: build(*args)))
        return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state))

    job.build_model = zeros
    job.packing_for = lambda state, _: packing.Packing(state)
    this = job.prepare(settings, dataset)

    def count(state: Any, batch: Any) -> Any:
        zero = 0.0 * batch["label"].sum()
        metrics = {"loss": zero, "accuracy": zero, "grad_norm": zero}
        return dataclasses.replace(state, step=state.step + 1), metrics

    this.step = count
    return this


def ready_batch(settings: Any) -> dict[str, Any]:
    """What the pipeline gives."""
    import numpy as np

    count, size = settings.batch_size, settings.image_size
    return {
        "image": np.zeros((count, size, size, 3), np.uint8),
        "label": np.zeros(count, np.int32),
        "mask": np.ones(count, np.float32),
        "notes": (),
    }


def middle(seconds: list[float]) -> float:
    """The median, in milliseconds, over the means of stretches of 50 steps."""
    stretches = [seconds[i : i + STRETCH] for i in range(0, len(seconds), STRETCH)]
    return 1e3 * statistics.median(sum(s) / len(s) for s in stretches)


def tree_milliseconds(state: Any) -> float:
    """What it takes to make leaves of a state, and a state of leaves."""
    import jax

    times = []
    for _ in range(50):
        start = time.perf_counter()
        leaves, definition = jax.tree.flatten(state)
        definition.unflatten(leaves)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _leaves(state: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(state)


if __name__ == "__main__":
    found = {"first_step": first_step, "loop": loop}[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps(found))

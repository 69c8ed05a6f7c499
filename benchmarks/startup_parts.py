"""What benchmarks/startup.py runs in fresh processes: a first step, and a loop without work.

    python -m benchmarks.startup_parts first_step|loop '{"arch": ..., ...}'

from the checkout; the last line of standard output is the result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import statistics
import sys
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

    from train.run import assembly, training

    config, dataset = configured(arch, folder, batch_size, image_size, rewrites=tuple(rewrites))
    done("import")
    job = assembly.assemble(config, dataset)
    done("build")
    training.keep_compiled(config.run.workdir)
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


def configured(
    arch: str, folder: str, batch_size: int, image_size: int | None, **more: Any
) -> tuple[Any, Any]:
    """The configuration of a network's training on ImageNet, and ImageNet without its images."""
    from train.config.fields import override
    from train.run.command_line import parse

    # To compile only needs no data; the rest of the configuration is that of a run.
    config, dataset = parse(
        ["--arch", arch, "--compile-only", "cpu", "--batch-size", str(batch_size)]
    )
    sizes = {} if image_size is None else {"image_size": image_size}
    options = {"compile_only": None, "workdir": Path(folder), **sizes, **more}
    return override(config, options), dataset


class Ended(Exception):
    """The loop has made all steps that were asked for."""


class TimedStep:
    """A compiled step that notes when it is called and when it returns.

    Raises:
        Ended: after so many steps.
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


def time_loop(
    arch: str, batch_size: int, image_size: int | None, steps: int, folder: str
) -> dict[str, Any]:
    """Times `train/engine/loop.py` around a compiled step that only passes a state on.

    All is a run's own but for three things: the step's program only counts, so that no time is the
    network's; batches lie on the devices, so that none is the input's; and the run is cut off
    before it evaluates.

    Returns:
        Milliseconds of a step, `all`, and of them in the `call` of its program: the middle over
        stretches of 50 steps; `arrays` in the state.
    """
    import jax

    from train.run import training

    config, dataset = configured(arch, folder, batch_size, image_size)
    job = idle_job(config, dataset)
    batch = job.devices.put(blank_batch(config))
    step = TimedStep(job.lower(batch).compile(), UNTIMED + steps + 1)
    job.lower = lambda _: step
    job.devices.put = lambda batch: batch
    job.batches = lambda *_: contextlib.nullcontext(itertools.repeat({**batch, "notes": ()}))
    training.assemble = lambda *_: job
    with contextlib.suppress(Ended):
        training.run(config, dataset)
    times = step.times[UNTIMED:]
    return {
        "arrays": len(jax.tree.leaves(job.state)),
        "all": middle([after - before for (before, _), (after, _) in itertools.pairwise(times)]),
        "call": middle([end - start for start, end in times[:-1]]),
    }


def idle_job(config: Any, dataset: Any) -> Any:
    """A run's job with zeros for parameters and a step that only counts."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from train.engine import functional
    from train.run.assembly import assemble

    build = functional.build

    def zeros(*args: Any, **options: Any) -> Any:
        graphdef, state = nnx.split(nnx.eval_shape(lambda: build(*args, **options)))
        return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state))

    functional.build = zeros
    job = assemble(config, dataset)

    def count(state: Any, batch: Any) -> Any:
        zero = 0.0 * batch["label"].sum()
        metrics = {"loss": zero, "accuracy": zero, "grad_norm": zero}
        return dataclasses.replace(state, step=state.step + 1), metrics

    job.step = count
    return job


def blank_batch(config: Any) -> dict[str, Any]:
    """A batch of black images."""
    import numpy as np

    count, size = config.batch.batch_size, config.input.image_size
    return {
        "image": np.zeros((count, size, size, 3), np.uint8),
        "label": np.zeros(count, np.int32),
    }


def middle(seconds: list[float]) -> float:
    """The median, in milliseconds, over the means of stretches of 50 steps."""
    stretches = [seconds[i : i + STRETCH] for i in range(0, len(seconds), STRETCH)]
    return 1e3 * statistics.median(sum(s) / len(s) for s in stretches)


if __name__ == "__main__":
    found = {"first_step": first_step, "loop": time_loop}[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps(found))

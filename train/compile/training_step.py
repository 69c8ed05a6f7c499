"""`--compile-only`: compiles a run's training step for devices that this machine does not have.

Machines with these devices use the same compiler, so memory and communication are exact. Times are
estimates of the compiler's cost model. Nothing is executed.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from train.compile import estimates, topology
from train.compile.compiler import TooLargeError, compile_program
from train.compile.topology import Topology
from train.config import fields
from train.data.datasets import Dataset
from train.errors import TrainingError, UsageError
from train.report.progress import elapsed
from train.run.assembly import assemble
from train.run.command_line import Config

Report = dict[str, Any]

_UNIT = 8  # the search for the largest batch uses multiples of this number of images per device
_PRECISION = 16  # relative accuracy of the search


def describe(config: Config, dataset: Dataset) -> Report:
    """Compiles the training step; prints and returns the compiler's report.

    Raises:
        UsageError: if the topology does not exist, its compiler is not installed, or the batch
            cannot be spread over it.
        TrainingError: if the step needs more memory than a device has; the message names the
            largest batch that fits.
    """
    target = describe_topology(config)
    print(estimates.headline(config, dataset, target), flush=True)
    try:
        result = compile_step(config, dataset, target)
    except TooLargeError as error:
        print(f"{error}\nlooking for the largest batch that fits", flush=True)
        largest = largest_batch(config, dataset, target)
        raise TrainingError(f"{error}; {_remedy(largest, len(target.devices))}") from None
    print(estimates.table(result), flush=True)
    return result


def describe_topology(config: Config) -> Topology:
    """Returns the topology that `--compile-only` names.

    Raises:
        UsageError: if there is no such topology, its compiler is not installed, or the
            configuration cannot be compiled for it.
    """
    run = config.run
    assert run.compile_only is not None
    if config.network.dtype == "float64":
        raise UsageError("--compile-only: --dtype float64 is for checks on a CPU")
    target = topology.describe(run.compile_only)
    if run.compile_effort == "full" and target.family == "v6e":
        raise UsageError(
            "--compile-effort full: for v6e the compiler has taken more than 12 GB of memory and "
            "ten minutes without finishing; --compile-effort forced compiles anyway"
        )
    return target


def compile_step(config: Config, dataset: Dataset, target: Topology) -> Report:
    """Returns the compiler's report of the training step, from the cache if possible.

    Raises:
        TooLargeError: if the step does not fit into a device's memory.
        TrainingError: if the compiler fails for another reason.
    """
    network, batch, run = config.network, config.batch, config.run
    with elapsed("tracing the training step"):
        lowered, state_bytes = _lower(config, dataset, target)
    each = batch.batch_size // len(target.devices)
    found = compile_program(
        lowered, target, run.compile_effort, f"{each} images a device", run.compile_cache
    )
    del found["operations"]
    result = estimates.complete(
        {
            "arch": network.arch,
            "recipe": run.recipe,
            "dataset": dataset.name,
            "topology": target.name,
            "device_kind": target.kind,
            "devices": len(target.devices),
            "chips": target.chips,
            "dtype": network.dtype,
            "grad_reduce": network.grad_reduce,
            "image_size": config.input.image_size,
            "batch_size": batch.batch_size,
            "grad_accum": batch.grad_accum,
            "effort": run.compile_effort,
            "state_bytes": state_bytes,
            "capacity_bytes": topology.capacity(target),
            **found,
        },
        target,
    )
    needed, capacity = result["memory_bytes"], result["capacity_bytes"]
    # The compiler for GPUs accepts programs of any size. The one for TPUs only counts memory that
    # is in use at the same time. A device also needs the gaps between temporaries: a tenth of the
    # temporaries if memory is short.
    if capacity and needed > capacity:
        raise TooLargeError(f"{each} images a device", needed, capacity)
    return result


def largest_batch(config: Config, dataset: Dataset, target: Topology) -> int:
    """Returns the largest total batch of all devices that fits into memory; 0 if none fits.

    The unit of the search is one image per device, times `grad_accum` and `bn_group` if given. The
    result is exact if it is less than eight units. Otherwise it is a multiple of eight units, and a
    batch does not fit if it is larger by one sixteenth and by at least eight units.

    Args:
        config: configuration of the run; the search starts from its batch size.
        dataset: data set of the run.
        target: devices to compile for.
    """
    batch = config.batch
    unit = len(target.devices) * batch.grad_accum * max(batch.bn_group, 1)
    fits, fails = 0, None
    measured: list[tuple[int, float]] = []
    tried: int | None = max(batch.batch_size // unit, 1)
    while tried:
        try:
            resized = fields.override(config, {"batch_size": tried * unit})
            found = compile_step(resized, dataset, target)
            fits, needed, available = tried, found["memory_bytes"], found["capacity_bytes"]
        except TooLargeError as refusal:
            fails, needed, available = tried, refusal.required, refusal.available
        if needed and available:
            measured.append((tried, needed / available))
        tried = _next_try(measured, fits, fails)
    return fits * unit


def _next_try(measured: list[tuple[int, float]], fits: int, fails: int | None) -> int | None:
    """Returns the next batch size to try; None if the search is accurate enough.

    Sizes are in the unit of `largest_batch`.

    Args:
        measured: the sizes that were tried, each with the share of a device's memory that it needs.
        fits: the largest size that fits; 0 if none is known.
        fails: the smallest size that does not fit; None if none is known.
    """
    if fails is not None and fits < _UNIT < fails:
        return _UNIT
    step = _UNIT if fits >= _UNIT else 1
    close = max(fits // _PRECISION // step, 1) * step
    if fails is not None and fails - fits <= close:
        return None
    guess = _where_memory_ends(measured)
    if fails is None:
        # A compiler that is short of memory keeps less and recomputes more, so twice the size may
        # fit. It rejects sizes that are far too large at once. So smaller steps are only needed
        # when the memory is almost full.
        share = measured[-1][1] if measured else 0.0
        if share > 1 - 0.5 / _PRECISION:
            guess = fits + close
        else:
            guess = 2 * fits if share > 0.7 else max(guess, 2 * fits)
        return guess if guess < _UNIT else guess // _UNIT * _UNIT
    inside = max(close, (fails - fits) // 4)
    lowest, highest = fits + inside, fails - inside
    guess = min(max(guess, lowest), highest) if lowest < highest else (fits + fails) // 2
    return max(guess // step * step, fits + step)


def _where_memory_ends(measured: list[tuple[int, float]]) -> int:
    """Returns the size that needs all the memory, by linear extrapolation; 0 if impossible.

    The line goes through the last two measurements, or through the only one and the origin.
    """
    (n, before), (m, share) = [(0, 0.0), (0, 0.0), *measured][-2:]
    return round(m + (1 - share) * (m - n) / (share - before)) if share != before else 0


def _remedy(largest: int, devices: int) -> str:
    if largest:
        return (
            f"--batch-size {largest} fits, {largest // devices} images a device; a larger batch "
            "needs --grad-accum, --dtype bfloat16, or more chips"
        )
    return "not even one image a device fits: --dtype bfloat16, or a smaller --image-size"


def _lower(config: Config, dataset: Dataset, target: Topology) -> tuple[Any, int]:
    """Traces the training step that a run would compile.

    Returns:
        The traced step, and the size of the training state in bytes.
    """
    job = assemble(config, dataset, elsewhere=target.devices)
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(job.state))
    return job.lower(_batch(config, dataset)), state_bytes


def _batch(config: Config, dataset: Dataset) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of a batch's "image" and "label" from the input pipeline."""
    image, count = dataset.train[0].image, config.batch.batch_size
    shape = (config.input.image_size, config.input.image_size, dataset.channels)
    shape = image.shape if isinstance(image, np.ndarray) else shape
    return {
        "image": jax.ShapeDtypeStruct((count, *shape), np.uint8),
        "label": jax.ShapeDtypeStruct((count,), np.int32),
    }

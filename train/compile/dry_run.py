"""`--dry-run`: prints the plan of a run without executing it."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np

from train.config.fields import as_json
from train.engine.job import Job
from train.engine.schedule import peak_rate
from train.hosts import hardware
from train.run.command_line import Config


def describe(config: Config, job: Job) -> dict[str, Any]:
    """Prints configuration, parameters, FLOPs, memory and schedule of an assembled run.

    Returns:
        A dict with the names of network, data set and recipe, and the numbers of devices,
        parameters, steps, FLOPs and bytes.
    """
    print(json.dumps(as_json(config), indent=2))
    with job.batches(0, 1) as batches:
        batch = next(batches)
    batch = {name: batch[name] for name in ("image", "label")}
    print("compiling the training step ...", flush=True)
    compiled = job.lower(job.devices.put(batch)).compile()
    memory, count = compiled.memory_analysis(), job.flops(compiled)
    summary = {
        "arch": config.network.arch,
        "dataset": config.data.dataset,
        "recipe": config.run.recipe,
        "devices": jax.device_count(),
        "parameters": job.num_params,
        "steps": job.total,
        "steps_per_epoch": job.per_epoch,
        "flops_per_step_per_device": count,
        "argument_bytes_per_device": memory.argument_size_in_bytes,
        "temporary_bytes_per_device": memory.temp_size_in_bytes,
    }
    for name, value in summary.items():
        print(f"{name.replace('_', ' '):28} {value:,}" if isinstance(value, int | float) else
              f"{name.replace('_', ' '):28} {value}")  # fmt: skip
    peak = hardware.peak_flops(jax.devices()[0].device_kind)
    if peak and count:
        print(f"{'shortest step, at peak':28} {1e3 * count / peak:.2f} ms")
    print(f"highest rate {peak_rate(config.schedule, config.batch.batch_size):.4g}")
    print(_schedule(job))
    return summary


def _schedule(job: Job) -> str:
    """Returns a text table of the learning rate at up to 21 evenly spaced steps of the run."""
    lines = ["   epoch      step  rate"]
    for step in sorted({int(s) for s in np.linspace(0, job.total - 1, 21)}):
        lines.append(f"{step / job.per_epoch:8.2f} {step:9}  {job.rate(step):.4g}")
    return "\n".join(lines)

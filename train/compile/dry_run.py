"""`--dry-run`: what a run would be, without running it."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np

from train.config.options import Config
from train.config.workdir import as_json
from train.data import pipeline
from train.engine import optimizer
from train.engine.job import Job
from train.hosts import hardware


def flops(compiled: Any, config: Config) -> float | None:
    """Returns the FLOPs of a compiled step on one device, None where XLA does not tell."""
    analysis = compiled.cost_analysis() or {}
    count = analysis.get("flops", 0.0)
    # XLA counts the body of a loop once; nearly all of a step in parts is in the loop over them.
    return count * config.grad_accum if count > 0 else None


def describe(job: Job) -> dict[str, Any]:
    """Prints configuration, parameters, FLOPs, memory and schedule; returns the numbers."""
    config = job.config
    print(json.dumps(as_json(config), indent=2))
    with pipeline.train_batches(
        job.dataset, job.options, 0, 1, config.batch_size, config.seed,
        jax.process_index(), jax.process_count(),
    ) as batches:  # fmt: skip
        batch = next(batches)
    batch = {name: batch[name] for name in ("image", "label")}
    print("compiling the training step ...", flush=True)
    compiled = job.lower(job.devices.put(batch)).compile()
    memory, count = compiled.memory_analysis(), flops(compiled, config)
    summary = {
        "arch": config.arch,
        "dataset": config.dataset,
        "recipe": config.recipe,
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
    print(_schedule(job))
    return summary


def _schedule(job: Job) -> str:
    """The rate over the run, as a table."""
    lines = [f"highest rate {optimizer.peak_rate(job.config):.4g}", "   epoch      step  rate"]
    for step in sorted({int(s) for s in np.linspace(0, job.total - 1, 21)}):
        lines.append(f"{step / job.per_epoch:8.2f} {step:9}  {float(job.rate(step)):.4g}")
    return "\n".join(lines)

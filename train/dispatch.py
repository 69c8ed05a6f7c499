"""From a command line to an exit code: trains, evaluates, compiles, or says what a run would be."""

from __future__ import annotations

import json
import sys
from typing import Any

import jax

import inception_jax as ij
from train import errors
from train.compile import dry_run, training_step
from train.data.datasets import Dataset
from train.engine.loop import Preempted
from train.hosts import processes
from train.run import assembly, command_line, file_evaluation, training
from train.run.command_line import Config

_RESUME = "the same command resumes from the last checkpoint"


def main() -> int:
    """Runs the command line; returns the exit code."""
    processes.quiet_without_tpu()
    try:
        result = _run(*command_line.parse(sys.argv[1:]))
    except Preempted as stop:
        print(stop, file=sys.stderr)
        processes.leave()
        return 42
    except (errors.UsageError, ij.UnknownModelError, ij.WeightsError) as error:
        return _fail(f"error: {error}", 2)
    except (errors.TrainingError, OSError) as error:
        return _fail(f"error: {error}", 1)
    except jax.errors.JaxRuntimeError as error:
        return _fail(f"error: {_explain(error)}", 1)
    except KeyboardInterrupt:
        return _fail(f"interrupted: {_RESUME}", 1)
    if processes.is_main():
        print(json.dumps(result), flush=True)
    processes.leave()
    return 0


def _run(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Does what the command line asks for; returns the last line of standard output."""
    if config.run.compile_only is not None:
        return training_step.describe(config, dataset)
    processes.connect(config.hosts)
    if config.network.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if config.run.dry_run:
        return dry_run.describe(config, assembly.assemble(config, dataset))
    if file_evaluation.is_asked(config):
        return file_evaluation.run(config, dataset)
    return training.run(config, dataset)


def _explain(error: Exception) -> str:
    """A line about what the compiler or the devices say."""
    reason = str(error).partition("\n")[0][:300]
    if "RESOURCE_EXHAUSTED" in reason:
        return f"out of memory: lower --batch-size, or raise --grad-accum ({reason})"
    if jax.process_count() > 1:
        return f"another process of the run is lost; restart all of them, and {_RESUME} ({reason})"
    return f"{reason}; {_RESUME}"


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    processes.abandon(code)
    return code

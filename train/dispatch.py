"""Executes a command line: trains, evaluates, compiles, or prints the plan of a run."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import jax

import inception_jax as ij
from inception_jax.tpu import quiet_without_tpu
from train import errors
from train.compile import dry_run, training_step
from train.data.datasets import Dataset
from train.ending import last_line, sigterm, trace
from train.engine.loop import Preempted
from train.hosts import preemption, processes
from train.run import assembly, command_line, file_evaluation, training
from train.run.command_line import Config

_RESUME = "the same command resumes from the last checkpoint"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_USAGE = (errors.UsageError, ij.UnknownModelError, ij.WeightsError)


def main() -> int:
    """Runs the command line; returns the exit code.

    After success, the last line on standard output is the result, in JSON. Otherwise the last line
    on standard error says how the run ended.
    """
    last_line.begin_again()
    quiet_without_tpu()
    config = None
    try:
        config, dataset = command_line.parse(sys.argv[1:])
        last_line.workdir(config.run.workdir)
        result = _run(config, dataset)
        if processes.is_main():
            print(json.dumps(result), flush=True)
    except Preempted as stop:
        last_line.say(str(stop))
        processes.leave()
        return sigterm.PREEMPTED
    except _USAGE as error:
        return _fail(f"error: {error}", 2)
    except KeyboardInterrupt:
        return _fail(f"error: interrupted; {_RESUME}", 1)
    except Exception as error:
        if _peer_lost(error) and sigterm.received():
            return _fail(preemption.STALLED, sigterm.PREEMPTED)
        return _fail(_with_trace(error, config), 1)
    processes.leave()
    return 0


def _run(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Executes the command; returns its result as a dict, which `main` prints as the last line."""
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


def _with_trace(error: Exception, config: Config | None) -> str:
    """Writes an error's traceback to `error.log`; returns a one-line description of the error.

    `config` gives the workdir for the file; if it is None, the file is a temporary file.
    """
    folder = config.run.workdir if config else None
    process = config.hosts.process_id or 0 if config else 0
    path = trace.write(error, folder, process)
    line = f"error: {_explain(error, folder)}"
    if isinstance(error, errors.TrainingError) or path is None:
        return line
    return f"{line} (trace: {path})"


def _explain(error: Exception, folder: Path | None) -> str:
    """Returns a one-line description of an error, usually with advice.

    Args:
        error: the error that ended the run.
        folder: the workdir; None if it is not known yet. The description names it if the disk is
            full and the error names no file.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"no space left where {error.filename or folder} is written: free some; {_RESUME}"
    if isinstance(error, errors.TrainingError | OSError):
        return str(error)
    reason = str(error).partition("\n")[0][:300]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in reason:
        return f"out of memory: lower --batch-size, or raise --grad-accum ({reason})"
    if not isinstance(error, jax.errors.JaxRuntimeError):
        return f"{type(error).__name__}: {reason}; {_RESUME}"
    if _peer_lost(error):
        return f"another process of the run is lost; restart all of them, and {_RESUME} ({reason})"
    return f"{reason}; {_RESUME}"


def _peer_lost(error: Exception) -> bool:
    """Returns whether the cause of an error may be the loss of another process of the run.

    If the run has several processes, any error of the JAX runtime may have this cause.
    """
    return isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1


def _fail(message: str, code: int) -> int:
    last_line.say(message)
    processes.abandon(code)
    return code

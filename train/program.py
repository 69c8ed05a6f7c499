"""The program: from a command line to an exit code."""

from __future__ import annotations

import json
import sys

import jax

import inception_jax as ij
from train import errors
from train.config import options as config
from train.engine import loop
from train.hosts import processes

_GOES_ON = "the same command goes on from the last checkpoint"


def main() -> int:
    """Runs the command line; returns the exit code."""
    processes.quiet_without_tpu()
    try:
        result = loop.run(*config.parse(sys.argv[1:]))
    except loop.Preempted as stop:
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
        return _fail(f"interrupted: {_GOES_ON}", 1)
    if processes.is_main():
        print(json.dumps(result), flush=True)
    processes.leave()
    return 0


def _explain(error: Exception) -> str:
    """A line about what the compiler or the devices say."""
    reason = str(error).partition("\n")[0][:300]
    if "RESOURCE_EXHAUSTED" in reason:
        return f"out of memory: lower --batch-size, or raise --grad-accum ({reason})"
    if jax.process_count() > 1:
        return f"another process of the run is lost; start all again, and {_GOES_ON} ({reason})"
    return f"{reason}; {_GOES_ON}"


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    processes.abandon(code)
    return code

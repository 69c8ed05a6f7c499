"""Compiles a traced program for devices that this machine does not have."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Literal

import jax

from inception_jax.outputs import atomic_write
from inception_jax.weights import download
from train.compile import hlo, topology
from train.compile.topology import Topology
from train.errors import TrainingError
from train.report.progress import elapsed

Effort = Literal["quick", "full", "forced"]
Report = dict[str, Any]

# Skips the search for the best tilings, which takes ten times as long and does not change memory or
# communication. jax 0.11 replaced the first option below with the second.
_OLD_JAX = "jax_exec_time_optimization_effort" in jax.config.values
_QUICK = {"exec_time_optimization_effort": -1.0} if _OLD_JAX else {"optimization_level": "O0"}
_EFFORTS: dict[str, dict[str, Any]] = {"quick": _QUICK, "full": {}, "forced": {}}


class TooLargeError(TrainingError):
    """A program does not fit into a device's memory.

    Attributes:
        required: bytes that the program needs; None if unknown.
        available: bytes that a device has; None if unknown.
    """

    def __init__(self, what: str, required: int | None, available: int | None, reason: str = ""):
        self.required, self.available = required, available
        message = f"{what} are too many for its memory ({reason})"
        if required and available:
            message = (
                f"{what} need {required / 2**30:.2f} GiB, of which a device has "
                f"{available / 2**30:.2f}"
            )
        super().__init__(message)


def compile_program(
    lowered: Any, target: Topology, effort: Effort, what: str, cache: bool = True
) -> Report:
    """Returns the compiler's report for a program, from the cache if possible.

    Args:
        lowered: result of `jax.jit(...).lower(...)`, sharded over the target's devices.
        target: devices to compile for.
        effort: effort of the compiler; "quick" skips the search for the best tilings.
        what: description of the program for messages, such as "32 images a device".
        cache: whether to look for the report in the cache. A new report is always stored there.

    Returns:
        A dict with the bytes of arguments, outputs, temporaries and code; the FLOPs; the compiler's
        estimates of time; the communication between devices; and each operation, see
        `hlo.operations`.

    Raises:
        TooLargeError: if the program does not fit into a device's memory.
        TrainingError: if the compiler fails for another reason.
    """
    path = _cache_file(lowered.as_text(), target, effort)
    found = json.loads(path.read_text()) if cache and path.exists() else {}
    if "operations" not in found and "refused" not in found:
        with elapsed(f"compiling for {target.name}, {what}"):
            found = _compile(lowered, effort)
        _store({"compiler": target.compiler, **found}, path)
        found = {"compiler": target.compiler, **found}
    if "refused" in found:
        raise TooLargeError(what, found["required"], found["available"], found["refused"])
    return found


def _compile(lowered: Any, effort: Effort) -> Report:
    started = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=_EFFORTS[effort])
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        if "RESOURCE_EXHAUSTED" not in reason:
            raise TrainingError(f"the compiler refuses the step: {reason}") from error
        sizes = topology.required(reason), topology.available(reason)
        return {"refused": reason, "required": sizes[0], "available": sizes[1]}
    memory, text = compiled.memory_analysis(), compiled.as_text()
    cost = compiled.cost_analysis() or {}
    cycles, without = hlo.cycles(text)
    return {
        "compile_seconds": round(time.monotonic() - started, 1),
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "donated_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "flops": cost.get("flops"),
        "bytes_accessed": cost.get("bytes accessed"),
        "optimal_seconds": cost.get("optimal_seconds"),
        "custom_calls": hlo.custom_calls(text),
        "cycles": cycles,
        "without_cycles": without,
        "collectives": [dataclasses.asdict(c) for c in hlo.collectives(text)],
        "operations": [dataclasses.asdict(o) for o in hlo.operations(text)],
    }


def _cache_file(text: str, target: Topology, effort: Effort) -> Path:
    """Returns the path of a cached report; the path depends on all inputs of the compiler."""
    flags = (os.environ.get("XLA_FLAGS", ""), os.environ.get("LIBTPU_INIT_ARGS", ""))
    tuned = "quick" if effort == "quick" else "full"
    key = (text, target.name, target.compiler, jax.__version__, tuned)
    digest = hashlib.sha256(repr((*key, *flags)).encode()).hexdigest()
    return download.cache_folder() / "compiled" / f"{digest[:32]}.json"


def _store(found: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(found))

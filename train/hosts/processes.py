"""Several processes in one run: how they find each other, agree, and stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from inception_jax.tpu import on_tpu
from train.errors import TrainingError, UsageError
from train.hosts.host_options import HostOptions

_INITIALIZATION_SECONDS = 300

_before_leaving: list[Callable[[], None]] = []


def connect(options: HostOptions) -> None:
    """Joins the other processes of the run, if there are any.

    Raises:
        UsageError: if the options contradict each other.
        TrainingError: if the other processes cannot be reached.
    """
    told = (options.coordinator, options.num_processes, options.process_id)
    if any(x is not None for x in told) and any(x is None for x in told):
        raise UsageError("--coordinator, --num-processes and --process-id go together")
    if options.distributed == "off" or (options.distributed == "auto" and not _in_cluster(options)):
        return
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            initialization_timeout=_INITIALIZATION_SECONDS,
            heartbeat_timeout_seconds=options.heartbeat_timeout,
            shutdown_timeout_seconds=options.heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"the processes of the run cannot find each other ({reason}); give --coordinator, "
            "--num-processes and --process-id, or --distributed off"
        ) from error


def _in_cluster(options: HostOptions) -> bool:
    """Returns whether this process seems to be one of several, or runs on a TPU machine."""
    env = os.environ
    return (
        options.coordinator is not None
        or int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1
        or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
        or (on_tpu() and env.get("JAX_PLATFORMS", "tpu") not in ("cpu", "cuda"))
    )


def is_main() -> bool:
    """Returns whether this process writes the files of the run, as process 0 or the only one."""
    # A single process need not ask the devices, which another run may be using.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def main_first(action: Callable[[], None]) -> None:
    """Runs an action in process 0 while the others wait. If it fails, all processes raise an error.

    Raises:
        UsageError, TrainingError, OSError: in process 0, if the action raises this error.
        UsageError: in the other processes, if the action failed in process 0.
    """
    error: Exception | None = None
    if is_main():
        try:
            action()
        except (UsageError, TrainingError, OSError) as refusal:
            error = refusal
    if several() and not all_agree(error is None) and error is None:
        error = UsageError("process 0 cannot start: see its message")
    if error is not None:
        raise error


def all_agree(good: bool) -> bool:
    """Returns whether `good` is true in all processes. All processes must call this."""
    if jax.process_count() == 1:
        return good
    return bool(np.all(multihost_utils.process_allgather(np.array(good))))


def several() -> bool:
    """Returns whether the run has several processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def check_same(digests: Mapping[str, str]) -> None:
    """Checks that all processes have equal digests. All processes must call this.

    Args:
        digests: SHA-256 digests in hexadecimal, by a name for their content, such as "images".

    Raises:
        UsageError: in all processes, if digests differ. The message names the content, and the
            processes that differ from process 0.
    """
    if not several():
        return
    own = np.array([list(bytes.fromhex(text)) for text in digests.values()], np.uint8)
    everyone = multihost_utils.process_allgather(own)  # [processes, digests, 32]
    for i, what in enumerate(digests):
        others = [j for j, found in enumerate(everyone) if np.any(found[i] != everyone[0][i])]
        if others:
            raise UsageError(
                f"the processes of the run do not agree: process(es) {', '.join(map(str, others))} "
                f"have different {what} from process 0. Start all with the same command, versions "
                "and files"
            )


def total(count: int) -> int:
    """Returns the sum of a number over all processes. All processes must call this."""
    if jax.process_count() == 1:
        return count
    return int(np.sum(multihost_utils.process_allgather(np.array(count))))


def abandon(code: int) -> None:
    """Ends this process at once, with the exit code `code`, if distributed JAX is initialised.

    A normal exit would wait for the other processes, which may be lost, or may wait for this one.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def before_leaving(action: Callable[[], None]) -> None:
    """Registers a function that `leave` calls before it closes the connection."""
    _before_leaving.append(action)


def leave() -> None:
    """Waits until all processes call this, and then closes the connection between them."""
    for action in _before_leaving:
        action()
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()

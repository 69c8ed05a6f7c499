"""Several processes in one run: how they find each other, agree, and stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.errors import TrainingError, UsageError
from train.hosts.host_options import HostOptions

_INITIALIZATION_SECONDS = 300


def connect(options: HostOptions) -> None:
    """Joins the other processes of the run, if there are any.

    Raises:
        UsageError: if the options contradict each other.
        TrainingError: if the others cannot be reached.
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
            f"the processes of the run do not find each other ({reason}); give --coordinator, "
            "--num-processes and --process-id, or --distributed off"
        ) from error


def _in_cluster(options: HostOptions) -> bool:
    """Says whether this process was started as one of several, or on a TPU machine."""
    env = os.environ
    return (
        options.coordinator is not None
        or int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1
        or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
        or (_on_tpu() and env.get("JAX_PLATFORMS", "tpu") not in ("cpu", "cuda"))
    )


def _on_tpu() -> bool:
    """A TPU machine, by its devices, which have either name, and the library that runs them."""
    devices = (Path("/dev/accel0"), Path("/dev/vfio/0"))
    return find_spec("libtpu") is not None and any(device.exists() for device in devices)


def quiet_without_tpu() -> None:
    """Keeps libtpu, where it is installed only to compile, from complaining that there is no TPU.

    To be called before jax asks for devices.
    """
    if not _on_tpu():
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def is_main() -> bool:
    """Says whether this process writes what the run leaves."""
    return jax.process_index() == 0


def main_first(action: Callable[[], None]) -> None:
    """Runs an action in process 0 while the others wait; its refusal is everyone's.

    Raises:
        UsageError: what the action raises; in the others, that it did.
    """
    error = None
    if is_main():
        try:
            action()
        except UsageError as refusal:
            error = refusal
    if jax.process_count() > 1 and not all_agree(error is None) and error is None:
        error = UsageError("process 0 has refused to start: see what it says")
    if error is not None:
        raise error


def all_agree(good: bool) -> bool:
    """Says whether something is true in every process; all must ask."""
    if jax.process_count() == 1:
        return good
    return bool(np.all(multihost_utils.process_allgather(np.array(good))))


def total(count: int) -> int:
    """Returns the sum of a number over all processes; all must ask."""
    if jax.process_count() == 1:
        return count
    return int(np.sum(multihost_utils.process_allgather(np.array(count))))


class Preemption:
    """Whether the run is to end: SIGTERM came, to this process or to any other.

    A scheduler sends it some seconds before it takes the machine. Every process must ask as often
    as the others, and all get the same answers: the first time at which all know.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._received = False
        # With several processes jax's own service has the signal, and tells the others.
        self._alone = not jax.distributed.is_initialized()
        if self._alone:
            signal.signal(signal.SIGTERM, self._receive)

    def __call__(self) -> bool:
        if not (self._alone or self._received):
            self._asked += 1
            self._received = multihost_utils.reached_preemption_sync_point(self._asked)
        return self._received

    def _receive(self, *_: Any) -> None:
        self._received = True


def abandon(code: int) -> None:
    """Ends this process at once if there are others, which may be lost or waiting for it.

    An orderly exit would wait for them to come to the same point.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def leave() -> None:
    """Ends the connection to the other processes, which wait for each other."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()

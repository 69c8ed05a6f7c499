"""The options of devices and hosts."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from train.config.fields import MAY_CHANGE, NOT_NEGATIVE, POSITIVE


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """The batch, and how it is divided."""

    batch_size: Annotated[int, POSITIVE] = 32
    """Images in a step, over all devices."""
    grad_accum: Annotated[int, POSITIVE] = 1
    """Parts that a batch is computed in, one after another; BatchNorm's statistics are those of a
    part, the gradient and the update those of the whole batch."""
    bn_group: Annotated[int, NOT_NEGATIVE] = 0
    """Images that share BatchNorm's statistics, as a replica's did; 0: the whole batch, or part."""


@dataclasses.dataclass(frozen=True)
class HostOptions:
    """Several processes in one run."""

    distributed: Annotated[Literal["auto", "on", "off"], MAY_CHANGE] = "auto"
    """Several processes in one run: auto asks Slurm, Open MPI, TPUs, or takes the options below."""
    coordinator: Annotated[str | None, MAY_CHANGE] = None
    """Address and port of process 0, where the cluster does not tell."""
    num_processes: Annotated[int | None, POSITIVE, MAY_CHANGE] = None
    """Number of processes, where the cluster does not tell."""
    process_id: Annotated[int | None, NOT_NEGATIVE, MAY_CHANGE] = None
    """Number of this process from 0, where the cluster does not tell."""
    heartbeat_timeout: Annotated[int, POSITIVE, MAY_CHANGE] = 60
    """Seconds without a sign of life after which the other processes give a process up."""

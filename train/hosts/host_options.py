"""Options for devices and hosts."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from train.config.fields import MAY_CHANGE, NOT_NEGATIVE, POSITIVE


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """Options for the batch size, gradient accumulation and BatchNorm groups."""

    batch_size: Annotated[int, POSITIVE] = 32
    """Images per step, over all devices."""
    grad_accum: Annotated[int, POSITIVE] = 1
    """Gradient accumulation: compute a batch in this number of parts, one after another. BatchNorm
    uses the statistics of a part. The gradient and the update use the whole batch."""
    bn_group: Annotated[int, NOT_NEGATIVE] = 0
    """Number of images that share BatchNorm's statistics, like those of a replica in the papers. 0:
    the whole batch; with grad-accum, one part of it."""


@dataclasses.dataclass(frozen=True)
class HostOptions:
    """Options for runs with several processes."""

    distributed: Annotated[Literal["auto", "on", "off"], MAY_CHANGE] = "auto"
    """Whether this process is one of several in a run. auto: detect Slurm, Open MPI or TPUs, or use
    the options below."""
    coordinator: Annotated[str | None, MAY_CHANGE] = None
    """Address and port of process 0, if the cluster does not provide it."""
    num_processes: Annotated[int | None, POSITIVE, MAY_CHANGE] = None
    """Number of processes, if the cluster does not provide it."""
    process_id: Annotated[int | None, NOT_NEGATIVE, MAY_CHANGE] = None
    """Index of this process, from 0, if the cluster does not provide it."""
    heartbeat_timeout: Annotated[int, POSITIVE, MAY_CHANGE] = 60
    """Seconds without a heartbeat after which the other processes consider a process lost."""

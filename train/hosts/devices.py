"""One axis, `data`, over all devices: batches are cut along it, everything else is copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.errors import UsageError
from train.hosts.host_options import BatchOptions


def _mesh(devices: Sequence[Any]) -> Mesh:
    """One axis over all devices, neighbours on it near each other; slices one after another."""
    types = (AxisType.Auto,)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh((len(devices),), ("data",), types, devices=devices)
    each = len(devices) // slices
    ordered = mesh_utils.create_hybrid_device_mesh((each,), (slices,), devices)
    return Mesh(ordered, ("data",), types)


class Devices:
    """The shardings of a run.

    Args:
        options: of the batch.
        devices: to lay batches over; None for all that there are.

    Raises:
        UsageError: if the devices cannot share a batch evenly.
    """

    def __init__(self, options: BatchOptions, devices: Sequence[Any] | None = None):
        size, parts, count = options.batch_size, options.grad_accum, len(devices or jax.devices())
        if size % count:
            raise UsageError(f"--batch-size {size} is not a multiple of {count} devices")
        if size % (count * parts):
            raise UsageError(
                f"--batch-size {size} is not a multiple of --grad-accum {parts} parts "
                f"on {count} device(s)"
            )
        part = size // parts
        group = options.bn_group or part
        if part % group or (part // group % count and group % count):
            raise UsageError(
                f"--bn-group {group}: {part} images at once on {count} device(s) cannot be cut "
                "into groups of this size that lie evenly on them"
            )
        mesh = _mesh(devices or jax.devices())
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.sharded = NamedSharding(mesh, PartitionSpec("data"))
        whole_groups = part // group % count == 0
        axes = PartitionSpec("data") if whole_groups else PartitionSpec(None, "data")
        self._part = NamedSharding(mesh, axes)

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Makes global arrays of every process's share of a batch."""
        return {
            name: jax.make_array_from_process_local_data(self.sharded, array)
            for name, array in batch.items()
        }

    def copy(self, array: np.ndarray) -> jax.Array:
        """Puts an array that all processes have onto every device."""
        return jax.make_array_from_process_local_data(self.replicated, np.asarray(array))

    def spread(self, part: jax.Array) -> jax.Array:
        """Lays a part of a batch [groups, images, ...] over the devices, groups whole if it can."""
        return jax.lax.with_sharding_constraint(part, self._part)

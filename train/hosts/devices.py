"""One axis, `data`, over all devices: batches are cut along it, everything else is copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.config.options import Config
from train.errors import UsageError


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
        batch_size: images in a step, over all devices.
        grad_accum: parts of the batch.
        bn_group: images that share statistics; 0: those of a part.
        devices: to lay batches over; None for all that there are.

    Raises:
        UsageError: if the devices cannot share a batch evenly.
    """

    def __init__(
        self,
        batch_size: int,
        grad_accum: int = 1,
        bn_group: int = 0,
        devices: Sequence[Any] | None = None,
    ):
        count = len(devices or jax.devices())
        if batch_size % count:
            raise UsageError(f"--batch-size {batch_size} is not a multiple of {count} devices")
        if batch_size % (count * grad_accum):
            raise UsageError(
                f"--batch-size {batch_size} is not a multiple of --grad-accum {grad_accum} parts "
                f"on {count} device(s)"
            )
        part = batch_size // grad_accum
        group = bn_group or part
        if part % group or (part // group % count and group % count):
            raise UsageError(
                f"--bn-group {bn_group}: {part} images at once on {count} device(s) cannot be cut "
                "into groups of this size that lie evenly on them"
            )
        mesh = _mesh(devices or jax.devices())
        self.on_cpu = mesh.devices.flat[0].platform == "cpu"
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.sharded = NamedSharding(mesh, PartitionSpec("data"))
        whole_groups = part // group % count == 0
        axes = PartitionSpec("data") if whole_groups else PartitionSpec(None, "data")
        self._part = NamedSharding(mesh, axes)

    @classmethod
    def of(cls, config: Config, devices: Sequence[Any] | None = None) -> Devices:
        """Returns the shardings of a configuration."""
        return cls(config.batch_size, config.grad_accum, config.bn_group, devices)

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

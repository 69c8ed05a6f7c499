"""Data parallelism: batches are split over all devices, and everything else is replicated."""

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
    """Returns a mesh with one axis, `data`, over all devices.

    Devices that are neighbours on the axis are close to each other in the hardware. The devices of
    a TPU slice are consecutive.
    """
    types = (AxisType.Auto,)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh((len(devices),), ("data",), types, devices=devices)
    each = len(devices) // slices
    ordered = mesh_utils.create_hybrid_device_mesh((each,), (slices,), devices)
    return Mesh(ordered, ("data",), types)


class Devices:
    """The shardings of a run's arrays over its devices.

    Args:
        options: batch size, parts of a batch (gradient accumulation), BatchNorm group size.
        devices: devices to split batches over; None for all devices.

    Raises:
        UsageError: if a batch, its parts or its BatchNorm groups cannot be split evenly over the
            devices.
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
                f"--bn-group {group}: {part} images at once on {count} device(s) cannot be split "
                "into groups of this size that are spread evenly over the devices"
            )
        mesh = _mesh(devices or jax.devices())
        self.platform: str = mesh.devices.flat[0].platform
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.sharded = NamedSharding(mesh, PartitionSpec("data"))
        whole_groups = part // group % count == 0
        axes = PartitionSpec("data") if whole_groups else PartitionSpec(None, "data")
        self._part = NamedSharding(mesh, axes)

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Returns a batch as global arrays. `batch` is this process's share of it."""
        return {
            name: jax.make_array_from_process_local_data(self.sharded, array)
            for name, array in batch.items()
        }

    def copy(self, array: np.ndarray) -> jax.Array:
        """Returns an array replicated on all devices. All processes must pass the same array."""
        return jax.make_array_from_process_local_data(self.replicated, np.asarray(array))

    def spread(self, part: jax.Array) -> jax.Array:
        """Shards an array [groups, images, ...] by groups if possible, else by images.

        The array has the images or the labels of a part of a batch (see `BatchOptions`), in
        BatchNorm groups. "Possible" means: the number of groups is a multiple of that of devices.
        """
        return jax.lax.with_sharding_constraint(part, self._part)

"""One axis, `data`, over all devices: batches are cut along it, everything else is copied."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.errors import UsageError


class Devices:
    """The shardings of a run.

    Raises:
        UsageError: if the devices cannot share a batch evenly.
    """

    def __init__(self, batch_size: int):
        count = jax.device_count()
        if batch_size % count:
            raise UsageError(f"--batch-size {batch_size} is not a multiple of {count} devices")
        mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.sharded = NamedSharding(mesh, PartitionSpec("data"))

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Makes global arrays of every process's share of a batch."""
        return {
            name: jax.make_array_from_process_local_data(self.sharded, array)
            for name, array in batch.items()
        }

"""Computes a Fréchet distance in one or more processes, so that tests can compare the results.

`python -m tests.helpers.fid_shares BATCH SHARED [PROCESSES INDEX PORT]` prints the distance. If
SHARED is 1, each batch is sharded over a mesh of all devices. If it is 0, each process adds a share
of the images to its own state, and the states are merged. BATCH is the number of images in a batch.
PROCESSES is the number of processes, INDEX the number of this one, and PORT the port of process 0.
"""

from __future__ import annotations

import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

IMAGES = 60


def pictures(seed: int, low: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 256, (IMAGES, 24, 31, 3), np.uint8)


def main(batch: int, shared: bool, processes: int = 1, index: int = 0, port: int = 0) -> None:
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
    from inception_jax import metrics
    from tests.helpers.networks import filled

    extractor = metrics.Extractor(filled("inception_v3.fid", width_multiplier=0.125, num_classes=9))
    states = []
    for seed, low in ((0, 0), (1, 90)):
        state, images = extractor.init(), pictures(seed, low)
        if not shared:
            images = images[index::processes]
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            state = extractor.update(state, *(spread(part, batch) if shared else (part,)))
        states.append(state if shared else metrics.across_processes(state))
    print(repr(metrics.result(*states)))


def spread(part: np.ndarray, batch: int) -> tuple[jax.Array, jax.Array]:
    """Pads images to a full batch, and shards the batch over all devices.

    Args:
        part: images [n, h, w, c] of the batch; the last batch may have fewer than `batch`.
        batch: number of images in a full batch. Padding rounds it up to a multiple of the number of
            devices.

    Returns:
        The padded batch, and a mask that is True for the images of `part`.
    """
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    total = -(-batch // jax.device_count()) * jax.device_count()
    mask = np.arange(total) < len(part)
    filled = np.pad(part, [(0, total - len(part)), (0, 0), (0, 0), (0, 0)], constant_values=7)
    place = NamedSharding(mesh, PartitionSpec("data"))

    def put(whole: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(whole.shape, place, lambda at: whole[at])

    return put(filled), put(mask)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Draws and shuffles images at random, with a seed, exactly as other programs do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

Draws = Literal["torch_fidelity", "clean", "torchmetrics"]
Shuffle = Literal["torch_fidelity", "torchmetrics"]
Pair = tuple[np.ndarray, np.ndarray]


def subset_pairs(
    generated: int, real: int, size: int, subsets: int, *, draws: Draws, seed: int
) -> Iterator[Pair]:
    """Yields pairs of random subsets, each drawn without replacement.

    torch-fidelity seeds its random generator. clean-fid and torchmetrics do not. To get the same
    subsets from clean-fid, call `np.random.seed(seed)` just before it draws; for torchmetrics, call
    `torch.manual_seed(seed)`. Both programs draw from the real images before the generated ones. In
    clean-fid, the real images are `fdir2`.

    Args:
        generated: number of generated images.
        real: number of real images.
        size: number of images in a subset.
        subsets: number of pairs.
        draws: program to imitate: "torch_fidelity", "clean" (clean-fid) or "torchmetrics".
        seed: seed of the generator.

    Yields:
        Indices of the generated images and indices of the real images, each int [size].
    """
    rng = np.random.RandomState(seed)
    for _ in range(subsets):
        if draws == "torch_fidelity":
            first = rng.choice(generated, size, replace=False)
            yield first, rng.choice(real, size, replace=False)
            continue
        draw: Callable[[int], np.ndarray] = (
            (lambda n: _torchs_permutation(rng, n, size))
            if draws == "torchmetrics"
            else (lambda n: rng.choice(n, size, replace=False))
        )
        second = draw(real)
        yield draw(generated), second


def shuffled(count: int, *, shuffle: Shuffle, seed: int) -> np.ndarray:
    """Returns the indices of all images in random order, int [count].

    Args:
        count: number of images.
        shuffle: program to imitate: "torch_fidelity" or "torchmetrics".
        seed: seed of the generator; see `subset_pairs`.
    """
    rng = np.random.RandomState(seed)
    return (
        rng.permutation(count) if shuffle == "torch_fidelity" else _torchs_permutation(rng, count)
    )


def _torchs_permutation(
    rng: np.random.RandomState, count: int, size: int | None = None
) -> np.ndarray:
    """Returns the first `size` numbers of `torch.randperm(count)` on a CPU; None: all.

    PyTorch and NumPy use the same generator (MT19937) and seed it in the same way. PyTorch swaps
    each element i with itself or a later one, i + r % (count - i), where r is a random 32-bit
    number.
    """
    bits = rng.randint(0, 2**32, max(count - 1, 0), dtype=np.uint32).astype(np.int64)
    steps = np.arange(len(bits))
    partners = steps + bits % (count - steps)
    order = np.arange(count)
    for i, j in enumerate(partners[:size].tolist()):
        order[i], order[j] = order[j], order[i]
    return order[:size]

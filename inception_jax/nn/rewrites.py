"""Rewrites: exact transformations of a network's program that make it faster.

Most replace sums with equal sums that cost less memory traffic. None changes a parameter, its name
or its shape, and all results agree up to rounding. A program is traced with the rewrites that are
enabled at that time. If other rewrites are enabled later, JAX traces the function again.

- `siblings`: 1x1 convolutions of the same input become one convolution with concatenated kernels.
- `pools`: an average pool before a 1x1 convolution moves after it, where there are fewer channels.
- `statistics`: BatchNorm computes mean and variance in one pass over the feature map.
- `depthwise`: on TPUs, a depthwise convolution of few channels becomes a full convolution, whose
  kernel is zero between different channels.
- `repeats`: of the layers in a chain that have the same structure, only one is traced.
- `gradients`: on CPUs, convolutions, max pools and BatchNorm have custom gradients. The first
  derivative then works only in reverse mode, so this rewrite is not enabled by default. The
  training programme enables it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from inception_jax.nn.rewrite_names import DEFAULT_REWRITES, REWRITES, Rewrite

_enabled = jax.make_user_context(DEFAULT_REWRITES)


@contextlib.contextmanager
def rewritten(*names: Rewrite) -> Iterator[None]:
    """Context manager that enables the named rewrites and disables all others.

    It affects programs that are traced inside it. A rewrite makes a program faster and keeps its
    results up to rounding, see the list at the top of this file.

    Args:
        names: names from `REWRITES`; without names, all rewrites are disabled, and everything is
            computed as in the paper.

    Raises:
        ValueError: for a name that is not in `REWRITES`.
    """
    unknown = [name for name in names if name not in REWRITES]
    if unknown:
        raise ValueError(f"no rewrite is called {unknown[0]!r}; there are {', '.join(REWRITES)}")
    with _enabled(tuple(name for name in REWRITES if name in names)):
        yield


def enabled(name: Rewrite) -> bool:
    """Returns whether a rewrite is enabled for programs that are traced now."""
    return name in _enabled.value

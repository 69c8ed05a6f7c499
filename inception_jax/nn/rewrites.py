"""Which of the exact rewritings of a network's program are in use.

Most replace sums by equal sums that cost less memory traffic; none changes a parameter, its name
or its shape, and all results agree to rounding. They are chosen when a program is traced, and jax
traces again where the choice differs.

`siblings`: 1x1 convolutions of one input are one convolution with concatenated kernels.
`pools`: an average pool before a 1x1 convolution is taken after it, where there are fewer channels.
`statistics`: BatchNorm's mean and variance are summed in one reading of the map.
`depthwise`: on TPUs, a depthwise convolution of few channels is a full one, with zeros.
`repeats`: of equal layers in a row one is traced, and called for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

import jax

Rewrite = Literal["siblings", "pools", "statistics", "depthwise", "repeats"]
REWRITES: tuple[Rewrite, ...] = get_args(Rewrite)

_in_use = jax.make_user_context(REWRITES)


@contextlib.contextmanager
def rewritten(*names: Rewrite) -> Iterator[None]:
    """Traces with these rewritings and no others; with none, every sum is the paper's.

    Args:
        names: of `REWRITES`.

    Raises:
        ValueError: for a name that is not among them.
    """
    unknown = [name for name in names if name not in REWRITES]
    if unknown:
        raise ValueError(f"no rewriting is called {unknown[0]!r}; there are {', '.join(REWRITES)}")
    with _in_use(tuple(name for name in REWRITES if name in names)):
        yield


def in_use(name: Rewrite) -> bool:
    """Returns whether programs that are traced now are to be rewritten so."""
    return name in _in_use.value

"""A three-layer network that compiles in a second, for tests of the training programme.

`python -m tests.helpers.tiny` runs `train/main.py` with one more network, `--arch tiny`. While the
working directory contains a file named `stall`, the run gets no images.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # As in train/main.py, before slow imports.
    import os
    import signal

    _EARLY = b"SIGTERM before the first step\n"
    signal.signal(signal.SIGTERM, lambda *_: (os.write(2, _EARLY), os._exit(42)))

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from inception_jax import registry
from inception_jax.nn.layers import ConvBN, Linear, channel_scaler
from inception_jax.nn.model import Maps, Model
from train.ending import entry


class Tiny(Model):
    """A network of two convolutions and a classifier."""

    min_size = 8
    taps = ("conv1", "conv2")

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        width_multiplier: float = 1.0,
        dropout: float = 0.2,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.9,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        options: dict[str, Any] = dict(stride=2, bn_eps=bn_eps, bn_momentum=bn_momentum, **types)
        width = channel_scaler(width_multiplier)
        self.in_channels = in_channels
        self.conv1 = ConvBN(in_channels, width(16), 3, **options)
        self.conv2 = ConvBN(width(16), width(32), 3, **options)
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.fc = Linear(width(32), num_classes, **types)

    def _body(self, x: jax.Array, maps: Maps, rngs: nnx.Rngs | None) -> None:
        x = maps.add("conv1", self.conv1(x))
        maps.add("conv2", self.conv2(x))


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Registers `tiny` with the library and the training programme while a `with` block runs."""
    from train.config.demo import DEMO

    facts = registry.Tag(source="this file", input_size=16)
    registry.register("tiny", Tiny, paper="none", num_params=38_136, tags={"": facts})
    DEMO["tiny"] = {**DEMO["inception_v1"], "image_size": 16, "width_multiplier": 1.0}
    try:
        yield
    finally:
        for table in (registry._CLASSES, registry._DEFAULTS, registry._INFOS, DEMO):
            del table["tiny"]


@contextlib.contextmanager
def stalling(file: Path) -> Iterator[None]:
    """Makes reading images wait while a file exists, as if a mounted disk hung."""
    from train.data.pipeline import _TestImages, _TrainingImages

    def stalled(view: Callable[..., Any]) -> Callable[..., Any]:
        def waiting(*arguments: Any) -> Any:
            while file.exists():
                time.sleep(0.1)
            return view(*arguments)

        return waiting

    with pytest.MonkeyPatch.context() as patch:
        for kind in (_TestImages, _TrainingImages):
            patch.setattr(kind, "_view", stalled(kind._view))
        yield


def run() -> int:
    """Runs the training programme with `tiny` registered; returns the exit code.

    The programme's options come from `sys.argv`.
    """
    from train.dispatch import main

    with registered(), stalling(Path("stall").absolute()):
        return main()


if __name__ == "__main__":
    sys.exit(entry.run(run))

"""Whether this machine has TPUs."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

DEVICES = (Path("/dev/accel0"), Path("/dev/vfio/0"))  # older and newer machines


def on_tpu() -> bool:
    """Says whether there are TPUs, by their devices and the library that runs them."""
    return find_spec("libtpu") is not None and any(device.exists() for device in DEVICES)


def quiet_without_tpu() -> None:
    """Keeps libtpu, where it is installed only to compile, from complaining that there is no TPU.

    To be called before jax asks for devices.
    """
    if not on_tpu():
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

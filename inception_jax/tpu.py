"""Detects TPUs."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

DEVICES = (Path("/dev/accel0"), Path("/dev/vfio/0"))  # older and newer machines


def on_tpu() -> bool:
    """Returns whether this machine has TPUs and libtpu, the library that runs them."""
    return find_spec("libtpu") is not None and any(device.exists() for device in DEVICES)


def quiet_without_tpu() -> None:
    """Prevents libtpu's messages about missing TPUs on a machine without TPUs.

    libtpu may be installed there only to compile for TPUs. Call this before jax looks for devices.
    """
    if not on_tpu():
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

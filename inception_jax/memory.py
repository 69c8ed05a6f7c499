"""What the process does with memory that it has freed."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from inception_jax.tpu import DEVICES

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST_INT = 2**31 - 1

_ACCELERATORS = (*DEVICES, Path("/dev/nvidia0"), Path("/dev/kfd"))


def keep_freed_memory() -> bool:
    """Lets this process reuse freed memory instead of returning it to the kernel.

    XLA's CPU backend allocates the temporaries of a step in every step. glibc returns such large
    blocks to the kernel, which fills each page with zeros when it is touched again: a sixth of a
    training step's time on a CPU, an eighth of FID's. The most memory that the process has at any
    time stays the same. `train/main.py` and the command `inception-jax` call this. A library must
    not decide it for a program, so a program of your own calls it itself.

    To be called before jax starts threads, which would keep arenas of their own. Does nothing where
    the C library is not glibc, or where there is an accelerator, which has the temporaries instead.

    Returns:
        Whether the C library took the settings.
    """
    if platform.libc_ver()[0] != "glibc" or _has_accelerator():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST_INT), (_ARENA_MAX, 1))
    return all([mallopt(*setting) for setting in settings])


def _has_accelerator() -> bool:
    """Says whether jax would compute on something else than the CPU, by the machine's devices."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return False
    return any(device.exists() for device in _ACCELERATORS)

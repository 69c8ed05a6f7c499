"""Keeps freed memory in the process instead of returning it to the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from inception_jax.tpu import DEVICES

# From <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST_INT = 2**31 - 1

_kept: list[bool] = []  # not empty once `keep_freed_memory` has changed the settings

_ACCELERATORS = (*DEVICES, Path("/dev/nvidia0"), Path("/dev/kfd"))


def keep_freed_memory() -> bool:
    """Lets this process reuse freed memory instead of returning it to the kernel.

    XLA's CPU backend allocates the temporary arrays of a step anew in every step. glibc returns
    such large blocks to the kernel, which has to fill each page with zeros when it is used again.
    On a CPU that takes a sixth of a training step's time, and a sixteenth to an eighth of FID's.
    Peak memory stays the same in training, and grows by a quarter for FID, which returns what is
    kept every 250 images. `train/main.py` and the command `inception-jax` call this function. A
    library must not make this decision for a program, so your own program has to call it itself.

    Call it before JAX starts threads, which would have arenas of their own. It does nothing if the
    C library is not glibc, or if there is an accelerator, which then holds the temporary arrays.

    Returns:
        Whether the C library accepted the settings.
    """
    if platform.libc_ver()[0] != "glibc" or _has_accelerator():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST_INT), (_ARENA_MAX, 1))
    _kept.append(True)
    return all([mallopt(*setting) for setting in settings])


def return_freed_memory() -> None:
    """Returns the memory that `keep_freed_memory` has kept so far to the kernel.

    For loops that run for hours and allocate blocks of many sizes. These leave holes that nothing
    fits into, so the kept memory would grow slowly.
    """
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)


def _has_accelerator() -> bool:
    """Returns whether JAX would compute on an accelerator, judging by the machine's devices."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return False
    return any(device.exists() for device in _ACCELERATORS)

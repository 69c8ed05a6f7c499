"""Keeps freed memory in the process, or returns it to the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from inception_jax.tpu import DEVICES

# From <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1  # a threshold of 2**31 - 1 would return the temporary arrays of large batches

_kept: list[bool] = []  # not empty once `keep_freed_memory` has changed the settings

_ACCELERATORS = (*DEVICES, Path("/dev/nvidia0"), Path("/dev/kfd"))


def keep_freed_memory() -> bool:
    """Lets this process reuse freed memory instead of returning it to the kernel.

    On a CPU, XLA allocates the temporary arrays of a step again in every step. By default, glibc
    returns such large blocks to the kernel, which has to fill each page with zeros before the next
    use. That takes a sixth of the time of a training step, and a twentieth of the time of FID.
    Peak memory stays the same.

    `train/main.py` and the command `inception-jax` call this function. Your own program has to call
    it itself, because a library must not make this decision for a program.

    Call it before JAX starts threads, because each thread would get its own memory arena. It does
    nothing if the C library is not glibc. It also does nothing if there is an accelerator, because
    the temporary arrays are then in the accelerator's memory.

    Returns:
        Whether the C library accepted the settings; False if nothing was done.
    """
    if platform.libc_ver()[0] != "glibc" or _has_accelerator():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_ARENA_MAX, 1))
    _kept.append(True)
    return all([mallopt(*setting) for setting in settings])


def return_freed_memory() -> None:
    """Returns to the kernel the freed memory that `keep_freed_memory` has kept so far.

    Call it after a compilation, which leaves hundreds of megabytes in small holes. Large arrays do
    not fit into them. It does nothing unless `keep_freed_memory` has changed the settings.
    """
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)


def _has_accelerator() -> bool:
    """Returns whether JAX would compute on an accelerator, judging by the machine's devices."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return False
    return any(device.exists() for device in _ACCELERATORS)

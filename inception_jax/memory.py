"""Keeps freed memory in the process, in huge pages, or returns it to the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from inception_jax.tpu import DEVICES

# From <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1  # a threshold of 2**31 - 1 would return the temporary arrays of large batches
_MADV_HUGEPAGE = 14  # from <sys/mman.h>
_LARGEST_PAGE = 1 << 21  # bytes; arm64's pages of 512 MB would waste memory
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")

_kept: list[bool] = []  # not empty once `keep_freed_memory` has changed the settings

_ACCELERATORS = (*DEVICES, Path("/dev/nvidia0"), Path("/dev/kfd"))


def keep_freed_memory() -> bool:
    """Lets this process reuse freed memory instead of returning it to the kernel.

    On a CPU, XLA allocates the temporary arrays of a step again in every step. By default, glibc
    returns such large blocks to the kernel, which has to fill each page with zeros before the next
    use. That takes a sixth of the time of a training step, and a twentieth of the time of FID.
    Peak memory stays the same.

    The memory also gets huge pages of 2 MB instead of 4 kB, if Linux gives them to programs that
    ask for them (`madvise` in /sys/kernel/mm/transparent_hugepage/enabled). The processor then
    looks up addresses faster: a training step takes 0.96 to 0.98 of the time.

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
    accepted = all([mallopt(*setting) for setting in settings])
    _use_huge_pages()
    return accepted


def return_freed_memory() -> None:
    """Returns to the kernel the freed memory that `keep_freed_memory` has kept so far.

    Call it after a compilation, which leaves hundreds of megabytes in small holes. Large arrays do
    not fit into them. It does nothing unless `keep_freed_memory` has changed the settings.
    """
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)
        _use_huge_pages()  # the end of the heap, which had them, was returned too


def _use_huge_pages() -> None:
    """Asks the kernel for huge pages in the next part of the heap, up to half of all memory.

    glibc's own setting (`glibc.malloc.hugetlb`) is read only when a program starts. Here, the heap
    is extended by a block that is never touched, and therefore takes no memory. The kernel is asked
    for huge pages there, and the block is freed. glibc keeps it and takes later blocks from it.
    """
    if not _huge_pages_on_request() or not _addresses_are_free():
        return
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free.argtypes = [ctypes.c_void_p]
    page = os.sysconf("SC_PAGE_SIZE")
    size = os.sysconf("SC_PHYS_PAGES") // 2 * page
    block = libc.malloc(size)
    if block is None:
        return
    start = -(-block // page) * page
    libc.madvise(start, (block + size - start) // page * page, _MADV_HUGEPAGE)
    libc.free(block)


def _huge_pages_on_request() -> bool:
    """Returns whether the kernel gives huge pages of a usual size to programs that ask for them."""
    try:
        chosen = (_HUGE_PAGES / "enabled").read_text()
        size = int((_HUGE_PAGES / "hpage_pmd_size").read_text())
    except OSError:  # a kernel without huge pages
        return False
    return "[madvise]" in chosen and size <= _LARGEST_PAGE


def _addresses_are_free() -> bool:
    """Returns whether addresses without memory cost nothing: neither counted nor limited."""
    import resource  # Windows has no such module

    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    strict = _OVERCOMMIT.exists() and _OVERCOMMIT.read_text().strip() == "2"
    return not strict and limits == [resource.RLIM_INFINITY] * 2


def _has_accelerator() -> bool:
    """Returns whether JAX would compute on an accelerator, judging by the machine's devices."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return False
    return any(device.exists() for device in _ACCELERATORS)

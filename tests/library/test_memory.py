from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from inception_jax import memory
from inception_jax.memory import keep_freed_memory

_PROGRAM = """
import resource
from inception_jax.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (1 << 25)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = min(faults() for _ in range(3))
assert keep_freed_memory()
print(returned, min(faults() for _ in range(5)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again(monkeypatch):
    """Freed blocks of 32 MB are reused without new page faults after `keep_freed_memory`.

    The test uses a new process, because the setting lasts until the process ends.
    """
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    returned, kept = map(int, done.stdout.split())
    assert kept < 100 < 4000 < returned


_LARGE = """
import ctypes
from inception_jax.memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.malloc.argtypes = [ctypes.c_size_t]
keep_freed_memory()
block = libc.malloc(3 << 30)
before = libc.sbrk(0)
libc.free(block)
print(before - libc.sbrk(0))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_blocks_of_gigabytes_are_kept(monkeypatch):
    """The temporary arrays of a step of 16 images take more than 2 GB, and are kept too."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    done = subprocess.run(
        [sys.executable, "-c", _LARGE], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == 0


_RETURNING = """
from inception_jax.memory import keep_freed_memory, return_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

def freed():
    several = [b"x" * (1 << 22) for _ in range(32)]
    del several[1:-1]  # a hole in the middle of the heap
    before = resident()
    return_freed_memory()
    return before - resident(), len(several)

assert freed()[0] < 1000  # nothing was kept, and nothing is returned
keep_freed_memory()
print(freed()[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_kept_memory_can_be_returned(monkeypatch):
    """`return_freed_memory` returns most of the memory that `keep_freed_memory` has kept.

    The process frees 120 MiB, which are 30,720 pages of 4 KiB. More than 25,000 pages must be
    returned. Before `keep_freed_memory` nothing is kept, and fewer than 1,000 pages are returned.
    """
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    done = subprocess.run(
        [sys.executable, "-c", _RETURNING], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 25_000


def test_nothing_changes_beside_an_accelerator(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr("inception_jax.memory._ACCELERATORS", (tmp_path,))
    assert not keep_freed_memory()


_HUGE = """
import resource, sys
from inception_jax.memory import keep_freed_memory, return_freed_memory

def huge():
    block = b"x" * (1 << 27)
    with open("/proc/self/smaps_rollup") as file:
        (line,) = [line for line in file if line.startswith("AnonHugePages:")]
    return int(line.split()[1])  # kB

if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (1 << 42, resource.RLIM_INFINITY))
before = huge()
assert keep_freed_memory()
kept = huge()
return_freed_memory()
print(before, kept, huge())
"""


def _huge_pages(monkeypatch: pytest.MonkeyPatch, limits: str) -> list[int]:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    done = subprocess.run(
        [sys.executable, "-c", _HUGE, limits], capture_output=True, text=True, check=True
    )
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(
    not memory._huge_pages_on_request() or not memory._addresses_are_free(),
    reason="this kernel gives huge pages to all programs or to none, or addresses are limited",
)
def test_kept_memory_has_huge_pages(monkeypatch):
    """More than half of a block of 128 MiB has huge pages, also after memory was returned.

    The kernel may not find free huge pages for all of it.
    """
    before, kept, returned = _huge_pages(monkeypatch, "unlimited")
    assert before == 0
    assert min(kept, returned) > 64 * 1024


@pytest.mark.skipif(
    not memory._huge_pages_on_request(),
    reason="this kernel gives huge pages to all programs or to none",
)
def test_limited_addresses_are_not_reserved(monkeypatch):
    assert _huge_pages(monkeypatch, "limited") == [0, 0, 0]


@pytest.mark.parametrize(
    ("enabled", "size", "expected"),
    [
        ("always [madvise] never", 1 << 21, True),
        ("[always] madvise never", 1 << 21, False),
        ("always madvise [never]", 1 << 21, False),
        ("always [madvise] never", 1 << 29, False),
        (None, 1 << 21, False),
    ],
)
def test_huge_pages_are_requested_where_the_kernel_wants_that(
    monkeypatch, tmp_path, enabled, size, expected
):
    if enabled is not None:
        (tmp_path / "enabled").write_text(f"{enabled}\n")
        (tmp_path / "hpage_pmd_size").write_text(f"{size}\n")
    monkeypatch.setattr(memory, "_HUGE_PAGES", tmp_path)
    assert memory._huge_pages_on_request() == expected


def test_strict_accounting_reserves_nothing(monkeypatch, tmp_path):
    """With `vm.overcommit_memory=2`, reserved addresses would be missing elsewhere."""
    (tmp_path / "overcommit").write_text("2\n")
    monkeypatch.setattr(memory, "_OVERCOMMIT", tmp_path / "overcommit")
    assert not memory._addresses_are_free()

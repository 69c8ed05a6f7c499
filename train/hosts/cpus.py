"""The number of CPU cores that this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Returns the number of cores that this process may use.

    Batch systems often allow a process fewer cores than the machine has.
    """
    if process_cpu_count := getattr(os, "process_cpu_count", None):  # Python 3.13
        return process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

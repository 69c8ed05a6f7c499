"""Peak performance, clock and bandwidth of devices, by the `device_kind` that JAX reports."""

from __future__ import annotations

from collections.abc import Mapping

# FLOP/s in bfloat16 of one JAX device: a chip, or on v2 and v3 one of its two cores. From Google's
# and NVIDIA's data sheets, without sparsity. Keys are the start of `device_kind`; the longest key
# that matches counts.
_PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA T4": 65e12,
    "NVIDIA L4": 121e12,
    "NVIDIA V100": 125e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}

# Cycles per second: the peak in bfloat16 divided by the operations of the matrix units per cycle.
_CLOCKS = {
    "TPU v4": 1.05e9,
    "TPU v5 lite": 1.5e9,
    "TPU v5": 1.75e9,
    "TPU v6 lite": 1.75e9,
}

# Bytes per second between a chip and its memory, from Google's data sheets.
_BANDWIDTHS = {
    "TPU v4": 1228e9,
    "TPU v5 lite": 819e9,
    "TPU v5": 2765e9,
    "TPU v6 lite": 1640e9,
}


def peak_flops(kind: str) -> float | None:
    """Returns the peak FLOP/s in bfloat16 of a kind of device; None if unknown.

    `kind` is a `device_kind` of JAX, such as "TPU v5 lite".
    """
    return _of(_PEAKS, kind)


def clock(kind: str) -> float | None:
    """Returns the clock frequency of a kind of TPU in hertz; None if unknown.

    `kind` is as in `peak_flops`.
    """
    return _of(_CLOCKS, kind)


def bandwidth(kind: str) -> float | None:
    """Returns the memory bandwidth of a kind of TPU in bytes per second; None if unknown.

    `kind` is as in `peak_flops`.
    """
    return _of(_BANDWIDTHS, kind)


def _of(table: Mapping[str, float], kind: str) -> float | None:
    fitting = [name for name in table if kind.startswith(name)]
    return table[max(fitting, key=len)] if fitting else None

"""What a device can do at most."""

from __future__ import annotations

import jax

# FLOP/s in bfloat16, of one jax device: a chip, or on v2 and v3 one of its two cores. Google's and
# NVIDIA's data sheets, without sparsity; by the start of `device_kind`, the longest first.
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


def peak_flops() -> float | None:
    """Returns the bfloat16 FLOP/s of a device of this machine, None if it is not known."""
    kind = jax.devices()[0].device_kind
    fitting = [name for name in _PEAKS if kind.startswith(name)]
    return _PEAKS[max(fitting, key=len)] if fitting else None

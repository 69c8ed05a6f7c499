"""Estimates and formats the memory and time of a compiled step, from the compiler's report."""

from __future__ import annotations

import math
from typing import Any

from train.compile.topology import Topology
from train.data.datasets import Dataset
from train.hosts import hardware
from train.run.command_line import Config

Report = dict[str, Any]


def headline(config: Config, dataset: Dataset, target: Topology) -> str:
    """Returns two lines that describe the step and the devices."""
    network, size = config.network, config.batch.batch_size
    each = size / len(target.devices)
    return (
        f"{network.arch} by recipe {config.run.recipe}, for {dataset.name} "
        f"({len(dataset.train):,} images, {len(dataset.classes)} classes) at "
        f"{config.input.image_size} pixels in {network.dtype}\n"
        f"batch {size} over {len(target.devices)} devices ({target.name}, {target.kind}): "
        f"{each:g} images each"
    )


def complete(found: Report, target: Topology) -> Report:
    """Returns a report with derived values: total memory, times, images/s, share of peak FLOPs."""
    result = dict(found)
    used = ("argument_bytes", "output_bytes", "temporary_bytes", "code_bytes")
    result["memory_bytes"] = sum(found[name] for name in used) - found["donated_bytes"]
    # The cost model counts the body of a loop once, and almost all of a step in parts is in a loop.
    parts = found["grad_accum"]
    for name in ("flops", "bytes_accessed"):
        result[name] = found[name] * parts if found[name] else None
    result["roofline_seconds"] = _roofline(found)
    result["cycles_seconds"] = _cycles(found, target)
    peak = hardware.peak_flops(target.kind)
    for model in ("roofline", "cycles"):
        seconds = result[f"{model}_seconds"]
        speed = seconds and found["batch_size"] / target.chips / seconds
        result[f"{model}_images_per_second_per_chip"] = speed
        share = seconds and peak and result["flops"] and result["flops"] / seconds / peak
        result[f"{model}_share_of_peak"] = share or None
    return result


def _roofline(found: Report) -> float | None:
    """Returns the compiler's `optimal_seconds` for a whole step, corrected for custom calls.

    Returns None if the compiler gives no number, or if the corrected one is not positive.

    The compiler subtracts a second for each custom call of some kinds. The correction adds these
    seconds back. It assumes that a step takes less than a second. If gradient accumulation computes
    a step in several parts, it assumes this of each part.
    """
    raw = found["optimal_seconds"]
    if raw is None:
        return None
    seconds = raw + min(found["custom_calls"], math.floor(1 - raw))
    return seconds * found["grad_accum"] if seconds > 0 else None


def _cycles(found: Report, target: Topology) -> float | None:
    """Converts the compiler's estimate of cycles to seconds; None if there is no good estimate.

    The effort "quick" gives no good estimate, because the compiler does not search for the best
    tilings. Nor is there one with gradient accumulation, which computes a step in several parts.
    """
    clock = hardware.clock(target.kind)
    whole = found["effort"] != "quick" and found["grad_accum"] == 1  # no sum for a loop
    return found["cycles"] / clock if clock and found["cycles"] and whole else None


def table(result: Report) -> str:
    """Returns a report as a text table. Values are per device unless stated otherwise."""
    capacity = result["capacity_bytes"]
    of_capacity = f", of {_size(capacity)} that it has" if capacity else ""
    lines = [
        ("memory, a device", f"{_size(result['memory_bytes'])}{of_capacity}"),
        ("  arguments", _size(result["argument_bytes"])),
        ("  outputs", f"{_size(result['output_bytes'])}, "
                      f"{_size(result['donated_bytes'])} of them in donated arguments"),
        ("  temporaries", _size(result["temporary_bytes"])),
        ("  program", _size(result["code_bytes"])),
        ("state", f"{_size(result['state_bytes'])} on every device"),
        *_work(result),
        *_exchanges(result),
        *_times(result),
        ("compiler", f"{result['compiler']}, {result['effort']} effort, "
                     f"{result['compile_seconds']:.0f} s"),
    ]  # fmt: skip
    return "\n".join(f"{name:28} {value}" for name, value in lines)


def _work(result: Report) -> list[tuple[str, str]]:
    if not result["flops"]:
        return [("work", "this compiler gives no estimate")]
    return [
        ("FLOPs, a device", f"{result['flops'] / 1e12:.3f} T"),
        ("bytes accessed, a device", f"{result['bytes_accessed'] / 1e9:.2f} GB, on-chip copies "
                                     "included"),
    ]  # fmt: skip


def _exchanges(result: Report) -> list[tuple[str, str]]:
    return [
        (
            c["kind"],
            f"{c['count']} in {c['dtype']}, {_size(c['bytes'])}, the largest {_size(c['largest'])}",
        )
        for c in result["collectives"]
    ]


def _times(result: Report) -> list[tuple[str, str]]:
    lines = []
    for model, meaning in (
        ("roofline", "the compiler's roofline: each operation at the chip's best"),
        ("cycles", f"{result['cycles'] / 1e6:.1f} M cycles estimated by the compiler"),
    ):
        seconds = result[f"{model}_seconds"]
        if not seconds:
            continue
        speed, share = (
            result[f"{model}_{n}"] for n in ("images_per_second_per_chip", "share_of_peak")
        )
        of_peak = f", {share:.0%} of the bfloat16 peak" if share else ""
        lines.append(
            ("step, estimated",
             f"{seconds * 1e3:.1f} ms, {speed:,.0f} images/s/chip{of_peak} ({meaning})")
        )  # fmt: skip
    if result["cycles_seconds"]:
        left_out = ", ".join(f"{n} {kind}" for kind, n in result["without_cycles"].items())
        lines.append(("  cycles leave out", left_out or "nothing"))
    if lines:
        lines.append(("  all estimates leave out", "waiting for exchanges, for data and the host"))
    return lines


def _size(count: float) -> str:
    """Formats a number of bytes in B, kB, MB or GB, which are powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.2f} GB"

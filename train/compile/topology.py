"""Describes TPU slices and GPU machines to compile for, which need not exist here."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import PartitionSpec

from inception_jax.tpu import quiet_without_tpu
from train.errors import UsageError

_FORM = re.compile(r"(?:(\d+)\*)?([a-z]+\d+[a-z]*):(\d+(?:x\d+){1,2})", re.ASCII)
_EXAMPLES = "v5e:4x4, v6e:8x8, v4:2x2x2, v5p:4x4x4, tpu7x:2x2x1, 2*v5e:4x4 for two slices, h100:1x8"
# Topologies of Cloud TPUs by their number of chips, for each accelerator type.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_ACCELERATOR = re.compile(r"v(5litepod|5e|6e)-(\d+)", re.ASCII)
_GPUS = Path(__file__).parent / "gpus"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
        name: name of the topology, such as "v5e:4x4".
        platform: "tpu" or "gpu".
        devices: all devices. A chip of v2, v3 or tpu7x has two devices, any other chip has one.
        chips: number of TPU chips or GPUs.
        compiler: name and version of the compiler's package.
    """

    name: str
    platform: str
    devices: Sequence[Any]
    chips: int
    compiler: str

    @property
    def kind(self) -> str:
        """JAX's name for the kind of device, such as "TPU v5 lite"."""
        return self.devices[0].device_kind

    @property
    def family(self) -> str:
        """The generation of the devices, such as "v5e" or "h100"."""
        match = _FORM.fullmatch(self.name)
        assert match is not None
        return match[2]


def describe(name: str) -> Topology:
    """Returns a topology by its name. The devices need not exist.

    Args:
        name: "v5e:4x4" for a slice of 4x4 chips; "2*v5e:4x4" for two such slices; "v5litepod-16",
            Cloud TPU's name for "v5e:4x4"; "h100:2x8" for two hosts with eight GPUs each.

    Raises:
        UsageError: if there is no such topology, or its compiler is not installed.
    """
    if match := _ACCELERATOR.fullmatch(name):
        chips = int(match[2])
        if chips not in _FLAT:
            known = ", ".join(map(str, _FLAT))
            raise UsageError(f"--compile-only {name}: there are slices of {known} chips")
        name = f"{'v6e' if match[1] == '6e' else 'v5e'}:{_FLAT[chips]}"
    match = _FORM.fullmatch(name)
    if match is None or not all(map(int, re.findall(r"\d+", match[3]))):
        raise UsageError(f"--compile-only {name}: name a topology such as {_EXAMPLES}")
    slices, family, sides = int(match[1] or 1), match[2], [int(n) for n in match[3].split("x")]
    if slices == 0:
        raise UsageError(f"--compile-only {name}: there is at least one slice")
    chips = slices * math.prod(sides)
    if _target(family).exists():
        return _gpus(name, slices, sides, chips, _target(family).read_text())
    return _tpus(name, slices, family, sides, chips)


def _target(family: str) -> Path:
    """Returns the path of the file that describes a GPU to the compiler; it may not exist."""
    return _GPUS / f"{family}.txtpb"


def _tpus(name: str, slices: int, family: str, sides: list[int], chips: int) -> Topology:
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if family == "v4":
        options["chip_config_name"] = "megacore"  # two cores as one device, as users of v4 see it
    if any(side == 1 for side in sides[:2]):  # fewer chips than the 2x2 of a host
        options["chips_per_host_bounds"] = (min(sides[0], 2), min(sides[1], 2), 1)
    quiet_without_tpu()
    # Nothing is executed, so the lock that protects chips from other processes is not needed.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    compiler = _installed("libtpu", "TPUs", "tpu")
    shape = name.partition("*")[2] or name
    return Topology(name, "tpu", _ask(name, shape, "tpu", options), chips, compiler)


def _gpus(name: str, slices: int, sides: list[int], chips: int, target: str) -> Topology:
    if len(sides) != 2 or slices > 1:
        raise UsageError(f"--compile-only {name}: GPUs are named as HOSTSxGPUS, such as h100:1x8")
    compiler = _installed("jax-cuda13-plugin", "GPUs", "cuda")
    options = {"topology": f"1x{sides[0]}x{sides[1]}", "target_config": target}
    devices = _ask(name, name.partition(":")[0], "cuda", options)
    return Topology(name, "gpu", devices, chips, compiler)


def _installed(package: str, what: str, extra: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        raise UsageError(
            f'--compile-only for {what} needs {package}: pip install -e ".[train,{extra}]"'
        ) from None


def _ask(name: str, shape: str, platform: str, options: dict[str, Any]) -> Sequence[Any]:
    jax.config.update("jax_platforms", "cpu")  # do not start the devices of this machine
    try:
        return topologies.get_topology_desc(shape, platform=platform, **options).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"--compile-only {name}: there is no such topology ({reason}); for example {_EXAMPLES}"
        ) from error


def capacity(topology: Topology) -> int | None:
    """Returns the bytes of memory that a program may use on a device; None if unknown.

    For TPUs, this compiles a program that is far too large, and reads the size from the compiler's
    error. For GPUs, the size is JAX's default, three quarters of the memory.
    """
    if topology.platform == "gpu":
        size = re.search(r"device_memory_size: (\d+)", _target(topology.family).read_text())
        return int(size[1]) * 3 // 4 if size else None
    mesh = jax.sharding.Mesh(topology.devices[:1], ("data",))
    whole = jax.sharding.NamedSharding(mesh, PartitionSpec())
    huge = jax.ShapeDtypeStruct((1 << 40,), "bfloat16", sharding=whole)
    try:
        jax.jit(lambda x: x + 1).lower(huge).compile()
    except jax.errors.JaxRuntimeError as refusal:
        return available(str(refusal))
    return None


def available(refusal: str) -> int | None:
    """Returns the bytes of memory that a device has, as stated in a compiler error, or None."""
    match = re.search(r"exceeds available HBM \(([\d.]+)([KMGT])\)", refusal)
    return _bytes(match) if match else None


def required(refusal: str) -> int | None:
    """Returns the bytes of memory that a program needs, as stated in a compiler error, or None."""
    match = re.search(r"total memory required for HLO temporaries \(([\d.]+)([KMGT])\)", refusal)
    return _bytes(match) if match else None


def _bytes(match: re.Match[str]) -> int:
    return round(float(match[1]) * 1024 ** ("KMGT".index(match[2]) + 1))

"""Reads instructions, communication and cost estimates from the text of a compiled program."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
    "send",  # to other slices, through the host
)
_COLLECTIVE = re.compile(rf" = (\(.*?\)|\S+) ({'|'.join(_KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*?)\)")
_NO_ESTIMATE = 1 << 50  # the compiler writes 2**60 if it has no estimate


@dataclasses.dataclass(frozen=True)
class Collective:
    """Totals of a program's communication instructions of one kind and dtype.

    Attributes:
        kind: kind of instruction, such as "all-reduce" or "all-gather".
        dtype: dtype of the arrays.
        count: number of instructions; one instruction may carry several arrays.
        bytes: total bytes of all results on one device.
        largest: bytes of the largest instruction.
    """

    kind: str
    dtype: str
    count: int
    bytes: int
    largest: int


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction of the entry computation that takes time.

    Attributes:
        name: name of the instruction.
        kind: "convolution" for a fusion with a convolution, "loop" for any other fusion, else the
            opcode.
        cycles: cycles that the compiler estimates; None if it estimates none.
        bytes: bytes read and written. Operands count as if they were read completely.
        source: name of the operation in the traced program; empty if unknown.
    """

    name: str
    kind: str
    cycles: int | None
    bytes: int
    source: str


def operations(text: str) -> list[Operation]:
    """Returns the operations of a compiled program, in order."""
    sizes: dict[str, int] = {}
    convolving = _convolving(text)
    found = []
    for line in _entry(text):
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        name, result, opcode, operands = match.groups()
        sizes[name] = sum(_size(bits, shape) for _, bits, shape in _ARRAY.findall(result))
        if opcode in _FREE:
            continue
        estimate = _CYCLES.search(line)
        cycles = int(estimate[1]) if estimate and int(estimate[1]) < _NO_ESTIMATE else None
        read = sum(sizes.get(operand, 0) for operand in re.findall(r"%([\w.\-]+)", operands))
        called = re.search(r"calls=%?([\w.\-]+)", line)
        kind = opcode if opcode != "fusion" else "loop"
        if called and called[1] in convolving:
            kind = "convolution"
        source = re.search(r'op_name="([^"]*)"', line)
        found.append(Operation(name, kind, cycles, sizes[name] + read, source[1] if source else ""))
    return found


def _convolving(text: str) -> set[str]:
    """Returns the names of computations that contain a convolution, directly or in a callee.

    One pass suffices, because the text lists callees before callers.
    """
    found: set[str] = set()
    name = ""
    for line in text.splitlines():
        if line and not line[0].isspace():
            name = line.removeprefix("%").partition(" ")[0]
        elif " convolution(" in line or found.intersection(re.findall(r"calls=%?([\w.\-]+)", line)):
            found.add(name)
    return found


def collectives(text: str) -> list[Collective]:
    """Returns one `Collective` for each kind and dtype in a program, the most bytes first."""
    sizes: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for result, kind, started in _COLLECTIVE.findall(text):
        arrays = [(dtype, _size(bits, shape)) for dtype, bits, shape in _ARRAY.findall(result)]
        if kind == "send":
            arrays = arrays[:1]  # without the token and the count
        elif started and kind in ("all-gather", "collective-permute"):
            arrays = arrays[len(arrays) // 2 :]  # without the operands
        by_dtype: dict[str, int] = collections.defaultdict(int)
        for dtype, size in arrays:
            by_dtype[dtype] += size
        for dtype, size in by_dtype.items():
            sizes[kind, dtype].append(size)
    found = [Collective(*key, len(s), sum(s), max(s)) for key, s in sizes.items()]
    return sorted(found, key=lambda c: -c.bytes)


def custom_calls(text: str) -> int:
    """Returns the number of custom calls, which the compiler's cost model does not know."""
    return len(re.findall(r" custom-call\(", text))


def cycles(text: str) -> tuple[int, dict[str, int]]:
    """Returns the estimated cycles of a TPU program, and the instructions without an estimate.

    Only instructions of the entry computation are read. The estimate of an instruction includes the
    computations that it calls.

    Returns:
        The sum of the estimates, and a dict with the number of instructions without an estimate, by
        opcode. Instructions that only name values, such as parameters, are not counted.
    """
    total, without = 0, collections.Counter()
    for line in _entry(text):
        match = _CYCLES.search(line)
        count = int(match[1]) if match else _NO_ESTIMATE
        if count < _NO_ESTIMATE:
            total += count
        elif (found := _INSTRUCTION.match(line)) and found[3] not in _FREE:
            without[found[3]] += 1
    return total, dict(without.most_common())


# Opcodes of instructions that only name values, and take no time.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}


def _entry(text: str) -> Iterator[str]:
    inside = False
    for line in text.splitlines():
        if line.startswith("ENTRY"):
            inside = True
        elif inside and line.startswith("}"):
            return
        elif inside:
            yield line


def _size(bits: str, shape: str) -> int:
    """Returns the size of an array in bytes.

    Args:
        bits: bits per element as text, such as "32"; empty for a bool, which takes a byte.
        shape: sizes of the dimensions as text, separated by commas.
    """
    return math.prod(int(n or 1) for n in shape.split(",")) * int(bits or 8) // 8

"""Writes results into the pages of docs/; each benchmark has its own sections."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shlex
import statistics
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from inception_jax.outputs import atomic_write
from train.hosts.cpus import available_cores

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pages:
    """Options that benchmarks share."""

    docs: Path = ROOT / "docs"
    """Folder of the pages to write."""


def write_section(page: Path, name: str, text: str) -> None:
    """Replaces a section of a page, or appends a new section, atomically.

    Args:
        page: path of the page, which is created if it does not exist.
        name: name of the section, which is between `<!-- name -->` and `<!-- end name -->`.
        text: new text of the section.

    Raises:
        ValueError: if the section's end is missing.
    """
    first, last = f"<!-- {name} -->", f"<!-- end {name} -->"
    section = f"{first}\n{text.strip()}\n{last}"
    old = page.read_text() if page.exists() else f"# {page.stem.replace('_', ' ').capitalize()}\n"
    before, found, rest = old.partition(first)
    _, ended, after = rest.partition(last)
    if found and not ended:
        raise ValueError(f"{page}: {first} without {last}")
    new = before + section + after if found else f"{old.rstrip()}\n\n{section}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(page) as partial:
        partial.write_text(new)


def publish(page: Path | None, name: str, setting: str, *parts: str) -> None:
    """Prints a section and writes it into a page.

    Args:
        page: path of the page, which is created if it does not exist; None: only print.
        name: name of the section.
        setting: description of the conditions of this run, written after the command line.
        parts: tables and paragraphs of the section; empty ones are skipped.
    """
    about = paragraph(f"`{command()}`. {setting}")
    text = "\n\n".join([about, *filter(None, parts)])
    print(f"\n{text}", flush=True)
    if page is not None:
        write_section(page, name, text)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Returns the median of values as text, followed by the lowest and the highest value."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def paragraph(text: str) -> str:
    """Wraps text into lines of at most 100 characters."""
    return textwrap.fill(
        " ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False
    )


def command() -> str:
    """Returns the command line of this run, with its options."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine(*packages: str) -> str:
    """Returns a sentence on the machine and how busy it is; prints a warning if it is not idle.

    Call this before the benchmark starts.

    Args:
        packages: names of packages to list with their versions, if they are installed.
    """
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"{load:.1f} processes ran in the last minute: wait until the machine is idle, or the "
            "ratios will be those of a busy machine",
            file=sys.stderr,
        )
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = f"{available_cores()} cores"
    facts = ", ".join([_processor(), cores, f"Python {platform.python_version()}", *versions])
    return f"Machine: {facts}; {load:.1f} running processes in the minute before."


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

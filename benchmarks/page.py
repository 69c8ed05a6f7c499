"""A page of docs/ in which every benchmark writes its own section, and what they ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
import textwrap
from pathlib import Path

from inception_jax.outputs import atomic_write
from train.hosts.cpus import available_cores

PACKAGES = ("jax", "flax", "torch", "keras", "timm", "onnxruntime")


def write_section(page: Path, name: str, text: str) -> None:
    """Replaces a section of a page, or appends it; the page is never seen half written.

    Args:
        page: made if absent.
        name: of the section, which lies between `<!-- name -->` and `<!-- end name -->`.
        text: the new section.

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


def paragraph(text: str) -> str:
    """Returns a text in lines of at most 100 characters."""
    return textwrap.fill(
        " ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False
    )


def command() -> str:
    """Returns the command line of this run: its options are part of what a table says."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine(*packages: str) -> str:
    """Says in a line what a benchmark runs on.

    Args:
        packages: whose versions count, of those that are installed; none: `PACKAGES`.
    """
    versions = []
    for package in packages or PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = f"{available_cores()} cores"
    return ", ".join([_processor(), cores, f"Python {platform.python_version()}", *versions])


def load() -> float:
    """Returns how many processes ran in the last minute; says so if they leave no core alone."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"{load:.1f} processes ran in the last minute: wait for an idle machine, or the ratios "
            "say how implementations bear company",
            file=sys.stderr,
        )
    return load


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

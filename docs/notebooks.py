"""Hooks for `mkdocs build` that add the notebooks of examples/ without running them."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

FOLDER = Path(__file__).parents[1] / "examples"

# Names of the notebooks in the order of the site; a test checks that none is missing.
NAMES = (
    "transfer_learning",
    "googlenet_to_inceptionnext",
    "jax_and_pytorch",
    "fid_in_a_training_loop",
    "faces",
)

_NOTE = """
!!! note ""
    This page is [a notebook]({name}.ipynb) of the repository's folder `examples/`, with what it
    printed and drew.
"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds every notebook's page to the navigation, in place; returns `config`."""
    examples = next(item["Examples"] for item in config.nav if "Examples" in item)
    examples += [f"examples/{name}.md" for name in NAMES]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every notebook to `files` in place: a page with pictures, and a file to download.

    Returns:
        `files`.
    """
    for name in NAMES:
        page, pictures = converted(FOLDER / f"{name}.ipynb")
        files.append(File.generated(config, f"examples/{name}.md", content=page))
        for file, content in pictures.items():
            files.append(File.generated(config, f"examples/{name}/{file}", content=content))
        notebook = (FOLDER / f"{name}.ipynb").read_bytes()
        files.append(File.generated(config, f"examples/{name}.ipynb", content=notebook))
    return files


@functools.cache  # `mkdocs serve` needs the same pages at every change
def converted(path: Path) -> tuple[str, dict[str, bytes]]:
    """Returns the notebook at `path` as Markdown, and its pictures' bytes by file name."""
    notebook = nbformat.read(path, as_version=4)
    exporter = MarkdownExporter(display_data_priority=["image/svg+xml", "image/png", "text/plain"])
    body, resources = exporter.from_notebook_node(notebook)
    body = body.replace("](../docs/", "](../")  # from examples/ to docs/, in the repository
    body = re.sub(r"!\[(svg|png)\]\(", f"![A picture of the notebook]({path.stem}/", body)
    title, rest = body.split("\n", 1)
    return title + "\n" + _NOTE.format(name=path.stem) + rest, dict(resources["outputs"])

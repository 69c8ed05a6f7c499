"""Hooks of `mkdocs build`: they draw the gallery from the code and add it to the pages."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # networks are only traced

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import inception_jax as ij
from inception_jax import drawing

# Links to files of the checkout that are not part of the site.
_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./(?:\.\./)?(?:README\.md[^)]*|[a-z_]+/[^)]*)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds every network's page to the navigation."""
    gallery = next(item["Gallery"] for item in config.nav if "Gallery" in item)
    gallery += [{name: f"gallery/{name}.md"} for name in ij.list_models()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every network's page and drawings, and the gallery's page."""
    for path, content in _gallery():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replaces links to files outside the site by their text."""
    known = {file.src_uri for file in files}
    here = os.path.dirname(page.file.src_uri)

    def unlinked(match: re.Match) -> str:
        address = match.group(0).rpartition("](")[2].rstrip(")").partition("#")[0]
        target = os.path.normpath(os.path.join(here, address))
        return match.group(0) if target in known else match.group(1)

    return _OUTSIDE.sub(unlinked, markdown)


def _gallery() -> Iterator[tuple[str, str]]:
    index = [_INTRODUCTION]
    for name in ij.list_models():
        modules = drawing.modules(name, widths=True)
        yield f"gallery/{name}.svg", _drawn(name, None)
        page = [f"# {name}\n\n![The stages of {name}]({name}.svg)\n\n## Modules\n"]
        for module in modules:
            yield f"gallery/{name}.{module}.svg", _drawn(name, module)
            page.append(f"### {module}\n\n![{module} of {name}]({name}.{module}.svg)\n")
        page.append(f"## Stages\n\n```\n{ij.summary(name)}\n```\n")
        yield f"gallery/{name}.md", "\n".join(page)
        kinds = ", ".join(drawing.modules(name))
        index.append(f"## [{name}]({name}.md)\n\nMade of {kinds}.\n")
        index.append(f"[![The stages of {name}]({name}.svg){{ width=640 }}]({name}.md)\n")
    yield "gallery/index.md", "\n".join(index)


@functools.cache
def _drawn(name: str, module: str | None) -> str:
    # `mkdocs serve` asks for the same drawings at every change.
    return drawing.draw(name, module)


_INTRODUCTION = """# Gallery

Every network of the family and every kind of module in it, in one style, drawn from the traced
program: what is on the pictures is what is computed. `inception-jax draw NAME --module MODULE -o
FILE.svg` draws any of them, under any tag.
"""

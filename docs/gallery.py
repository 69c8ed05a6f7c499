"""Hooks of `mkdocs build`: they draw the gallery from the code and add it to the pages."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # networks are only traced

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import inception_jax as ij
from inception_jax import drawing

# Links to files of the checkout that are not part of the site.
_OUTSIDE = re.compile(
    r"\[([^\]]*)\]\((\.\./(?:\.\./)?(?:[A-Z]+(?:\.zh)?\.md[^)]*|[a-z_]+/[^)]*))\)"
)
_README_SECTION = re.compile(r"^<!-- README: (.+?) -->$", re.MULTILINE)
_ROOT = Path(__file__).resolve().parent.parent


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
    """Fills in sections of the README, and links files outside the site to the repository."""
    markdown = _README_SECTION.sub(lambda match: _readme_section(match.group(1)), markdown)
    known = {file.src_uri for file in files}
    here = os.path.dirname(page.file.src_uri)

    def linked(match: re.Match) -> str:
        text, address = match.groups()
        path, _, anchor = address.partition("#")
        target = os.path.normpath(os.path.join(here, path))
        if target in known:
            return match.group(0)
        # Only the workflow that publishes the site knows the repository's address.
        if not config.repo_url:
            return text
        file = target.removeprefix("../")
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{file}{anchor and f'#{anchor}'})"

    return _OUTSIDE.sub(linked, markdown)


def _readme_section(title: str) -> str:
    """Returns a section of the README as it belongs into a page of docs/."""
    text = (_ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {title}\n.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if section is None:
        raise ValueError(f"README.md has no section {title!r}, which a page includes")
    return re.sub(r"\]\(docs/", "](", section.group(0))


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

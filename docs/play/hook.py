"""Hook for `mkdocs build` that puts a note on the page play/ if its JavaScript is not built."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_PAGE = "play/index.md"
_PROGRAM = Path(__file__).with_name("built") / "play.js"
_START, _END = '<link rel="stylesheet" href="play.css">', "</script>\n"
_MISSING = """!!! warning "This copy of the site was built without the page's program"

    Build it as described [below](#how-it-is-made), and then the site again.
"""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replaces the application on the page play/ with a note if its JavaScript has not been built.

    All other pages are returned unchanged.

    Raises:
        ValueError: if the page play/ has no application to replace.
    """
    if page.file.src_uri != _PAGE or _PROGRAM.exists():
        return markdown
    before, start, rest = markdown.partition(_START)
    _, end, after = rest.partition(_END)
    if not start or not end:
        raise ValueError(f"{_PAGE} has no application between {_START!r} and {_END!r}")
    return f"{before}{_MISSING}{after}"

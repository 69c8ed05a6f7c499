"""Hooks for `mkdocs build` that draw the gallery from the code and add it to the site.

The gallery has one page for each network, with its drawings, and an index page.
"""

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
_DRAWING = re.compile(r'(?<!<a>)(?<!">)(<img [^>]*src="([^"]+\.(?:svg|png))"[^>]*>)')
_README_SECTION = re.compile(r"^<!-- README: (.+?) -->$", re.MULTILINE)
_ROOT = Path(__file__).resolve().parent.parent


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds every network's page to the navigation, in place; returns `config`."""
    gallery = next(item["Gallery"] for item in config.nav if "Gallery" in item)
    gallery += [{name: f"gallery/{name}.md"} for name in ij.list_models()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every network's page and drawings, and the gallery's index page, to `files` in place.

    Returns:
        `files`.
    """
    for path, content in _gallery():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Inserts README sections, and turns links to files outside the site into links to GitHub.

    A line `<!-- README: TITLE -->` in a page is replaced by the README's section under the heading
    `## TITLE`. If the repository's URL is unknown, links to files outside the site become plain
    text.

    Returns:
        The page's Markdown with these changes.

    Raises:
        ValueError: if the README has no section of that title.
    """
    markdown = _README_SECTION.sub(lambda match: _readme_section(match.group(1)), markdown)
    known = {file.src_uri for file in files}
    here = os.path.dirname(page.file.src_uri)

    def linked(match: re.Match) -> str:
        text, address = match.groups()
        path, _, anchor = address.partition("#")
        target = os.path.normpath(os.path.join(here, path))
        if target in known:
            return match.group(0)
        # Only the workflow that publishes the site knows the repository's URL.
        if not config.repo_url:
            return text
        file = target.removeprefix("../")
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{file}{anchor and f'#{anchor}'})"

    return _OUTSIDE.sub(linked, markdown)


def _readme_section(title: str) -> str:
    """Returns a section of the README as Markdown, with its heading and links relative to docs/.

    Raises:
        ValueError: if the README has no section of that title.
    """
    text = (_ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {title}\n.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if section is None:
        raise ValueError(f"README.md has no section {title!r}, which a page includes")
    return re.sub(r"\]\(docs/", "](", section.group(0))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns a page's HTML, in which every drawing is a link to its file.

    Readers can then open the drawing large and zoom.
    """
    return _DRAWING.sub(r'<a class="drawing" href="\2" title="Open large">\1</a>', html)


def _gallery() -> Iterator[tuple[str, str]]:
    index = [_INTRODUCTION]
    for name in ij.list_models():
        modules = drawing.modules(name, widths=True)
        yield f"gallery/{name}.svg", _drawn(name, None)
        facts = _facts(name)
        page = [f"# {name}\n\n{facts}\n\n![The stages of {name}]({name}.svg)\n\n## Modules\n"]
        for module in modules:
            yield f"gallery/{name}.{module}.svg", _drawn(name, module)
            page.append(f"### {module}\n\n![{module} of {name}]({name}.{module}.svg)\n")
        page.append(f"## Stages\n\n```\n{ij.summary(name)}\n```\n")
        yield f"gallery/{name}.md", "\n".join(page)
        kinds = ", ".join(drawing.modules(name))
        index.append(f"## [{name}]({name}.md)\n\n{facts}\n\nModules: {kinds}.\n")
        index.append(f"[![The stages of {name}]({name}.svg){{ width=640 }}]({name}.md)\n")
    yield "gallery/index.md", "\n".join(index)


def _facts(name: str) -> str:
    """Returns a paragraph about a network, in Markdown.

    It has a sentence on the network's main idea, the paper, the numbers of parameters and pixels,
    and a link to the network's chapter in docs/story.md.
    """
    info = ij.model_info(name)
    number = info.paper.rpartition("/")[2]
    authors, title, chapter = _PAPERS[number]
    if name.startswith("inception_resnet"):
        chapter = _RESIDUAL_CHAPTER
    return (
        f"**{_IDEAS[name]}**\n\n"
        f"{authors}, [{title}]({info.paper}), 20{number[:2]}. "
        f"{info.num_params:,} parameters, images of {info.input_size}x{info.input_size} pixels. "
        f"[Its chapter in the story](../story.md#{chapter})."
    )


@functools.cache
def _drawn(name: str, module: str | None) -> str:
    # Cached, because `mkdocs serve` needs the same drawings at every change.
    return drawing.draw(name, module)


_INTRODUCTION = """# Gallery

Every network of the family and every kind of module in it, in one style, drawn from the traced
program: what is on the pictures is what is computed. `inception-jax draw NAME --module MODULE -o
FILE.svg` draws any of them, under any tag.
"""

# Authors, title and the anchor of the chapter in docs/story.md, by the paper's arXiv id.
_PAPERS = {
    "1409.4842": ("Szegedy et al.", "Going Deeper with Convolutions", "2014-googlenet"),
    "1502.03167": ("Ioffe and Szegedy", "Batch Normalization", "2015-bn-inception"),
    "1512.00567": (
        "Szegedy et al.",
        "Rethinking the Inception Architecture for Computer Vision",
        "2015-rethinking-inception-v2-and-v3",
    ),
    "1602.07261": (
        "Szegedy et al.",
        "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
        "2016-inception-v4",
    ),
    "1610.02357": (
        "Chollet",
        "Xception: Deep Learning with Depthwise Separable Convolutions",
        "2016-xception",
    ),
    "1802.02611": (
        "Chen et al.",
        "Encoder-Decoder with Atrous Separable Convolution",
        "2018-aligned-xception",
    ),
    "2303.16900": (
        "Yu et al.",
        "InceptionNeXt: When Inception Meets ConvNeXt",
        "2023-inceptionnext",
    ),
}

_RESIDUAL_CHAPTER = "2016-inception-resnet"  # chapter on the same paper as Inception V4's

_ALIGNED = "Xception with {} layers, in which strided separable convolutions replace the max pools."
_PRE_NORM = "Aligned Xception with {} layers, which normalises before each separable convolution."
_NEXT = "A ConvNeXt whose large depthwise convolution is split by channels into {}."
_SPLIT = "a 3x3, a 1x11, an 11x1 and an identity"
_IDEAS = {
    "inception_v1": "Look through windows of several sizes at once, after 1x1 convolutions have "
    "reduced the channels.",
    "bn_inception": "Normalise each layer over the batch, and replace every 5x5 by two 3x3.",
    "inception_v2": "Factorise large convolutions into small ones, and n x n into 1 x n and n x 1.",
    "inception_v3": "The factorised modules of Inception V2, in the form of the authors' code.",
    "inception_v4": "One module for each map size, repeated, with reduction modules between them.",
    "inception_resnet_v1": "Inception modules that compute residuals, at the cost of Inception V3.",
    "inception_resnet_v2": "Inception modules that compute scaled residuals, at the cost of V4.",
    "xception": "Separate channels from space entirely: depthwise separable convolutions.",
    "xception41": _ALIGNED.format(41),
    "xception65": _ALIGNED.format(65),
    "xception71": _ALIGNED.format(71),
    "xception41p": _PRE_NORM.format(41),
    "xception65p": _PRE_NORM.format(65),
    "inception_next_atto": _NEXT.format("a 3x3, a 1x9, a 9x1 and an identity: the smallest size"),
    "inception_next_tiny": _NEXT.format(_SPLIT),
    "inception_next_small": _NEXT.format(f"{_SPLIT}, with three times tiny's third stage"),
    "inception_next_base": _NEXT.format(f"{_SPLIT}: as deep as small, and wider"),
}

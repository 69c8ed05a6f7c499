"""Tests that the Chinese pages match the English: headings, code, numbers, links, tables."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.story_in_chinese import translated

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "README.zh.md", "docs/story.md": "docs/story.zh.md"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def pair(page: str) -> tuple[str, str]:
    english, chinese = (ROOT / page, ROOT / PAGES[page])
    return english.read_text(encoding="utf-8"), chinese.read_text(encoding="utf-8")


def headings(text: str) -> list[str]:
    """Returns the levels of the headings: "#", "##", ..."""
    return re.findall(r"^(#+) ", FENCE.sub("", text), re.MULTILINE)


def commands(text: str) -> list[str]:
    """Returns the lines of code without comments, because comments are translated."""
    code = "\n".join(f"{language}\n{body}" for language, body in FENCE.findall(text))
    lines = (re.sub(r"(^|\s)#.*", "", line).rstrip() for line in code.splitlines())
    return [line for line in lines if line]


def numbers(text: str) -> list[Counter[str]]:
    """Counts each number in each section. The order of numbers depends on the language."""
    return [Counter(NUMBER.findall(part)) for part in re.split(r"^#+ ", text, flags=re.MULTILINE)]


def links(text: str) -> list[str]:
    """Returns the sorted targets of links and pictures; both languages of a page count as one."""
    targets = re.findall(r"\]\(([^)]+)\)", FENCE.sub("", text))
    return sorted(target.replace(".zh.md", ".md") for target in targets)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("part", [headings, commands, numbers, links])
def test_the_translation_is_in_step(page, part):
    english, chinese = map(part, pair(page))
    assert len(english) > 3 or part is commands
    assert chinese == english


@pytest.mark.parametrize("page", PAGES)
def test_the_translation_is_chinese(page):
    """Every paragraph contains Chinese. Tables, headings, comments and code are not checked."""
    for paragraph in re.split(r"\n{2,}", FENCE.sub("", pair(page)[1]).strip()):
        if not paragraph.startswith(("|", "<!--", "#", "[English]")):
            assert re.search(r"[\u4e00-\u9fff]", paragraph), paragraph


def test_the_story_has_the_tables_of_the_english_page():
    """The tables in docs/story.zh.md are translations of the tables in docs/story.md.

    `python benchmarks/story.py` writes both pages.
    """
    section = re.compile(
        r"^<!-- (?!end )(.+?) -->\n(.*?)\n<!-- end \1 -->$", re.DOTALL | re.MULTILINE
    )
    english, chinese = (dict(section.findall(text)) for text in pair("docs/story.md"))
    assert {name: translated(table) for name, table in english.items()} == chinese
    with pytest.raises(ValueError, match="does not translate 'a new word'"):
        translated("| 1.0 | a new word |")


def test_what_is_out_of_step_is_seen():
    text = "# A\n\nIt takes 5 s: [b](b.md).\n\n```bash\nls -l  # all\n```\n"
    assert commands(text) == commands(text.replace("# all", "# 全部")) == ["bash", "ls -l"]
    assert commands(text) != commands(text.replace("-l", "-a"))
    assert numbers(text) != numbers(text.replace("5", "6"))
    assert headings(text) != headings(text + "## B\n")
    assert links(text) != links(text.replace("b.md", "c.md"))
    assert links(text) == links(text.replace("b.md", "b.zh.md"))

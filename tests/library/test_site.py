"""Tests the documentation in a browser: pages fit on a phone, and tables fit on a laptop."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import page_widths

pytest.importorskip("mkdocs", reason='pip install -e ".[docs]"')
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="apt-get install chromium")
def test_pages_fit(site):
    phone, laptop = (page_widths.measure(site, width) for width in (390, 1400))
    assert len(phone) == len(laptop) > 40
    assert not [each for each in phone if each.overflow > 0]
    assert not [each for each in laptop if each.overflow > 0 or each.cut]


@pytest.mark.slow
def test_drawings_open_and_networks_have_their_facts(site):
    for page in sorted((site / "gallery").glob("*/index.html")):
        text = page.read_text(encoding="utf-8")
        drawings = re.findall(r'<a class="drawing" href="([^"]+)"[^>]*><img', text)
        assert drawings, page
        assert all((page.parent / drawing).is_file() for drawing in drawings), page
        assert "https://arxiv.org/abs/" in text, page
        assert "../../story/#20" in text, page
    assert 'class="drawing"' in (site / "story/index.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="apt-get install chromium")
def test_what_is_too_wide_is_seen(tmp_path):
    page = tmp_path / "wide/index.html"
    page.parent.mkdir()
    page.write_text(
        "<!doctype html><body style='margin:0'><div style='width:500px'>x</div>"
        "<div class='md-typeset__scrollwrap' style='width:90px;overflow:auto'>"
        "<div style='width:200px'>a table</div></div>"
    )
    (found,) = page_widths.measure(tmp_path, 390)
    assert found == page_widths.Measured("wide/index.html", 110, ("a table",))

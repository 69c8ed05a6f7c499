"""Finds pages of a built site that are too wide, and tables that must be scrolled, in Chromium.

Usage, with the site's folder and screen widths in CSS pixels:

python tests/helpers/page_widths.py SITE 390 1400
"""

from __future__ import annotations

import dataclasses
import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--hide-scrollbars --virtual-time-budget=600000 --dump-dom"
).split()

# Each page is loaded into a frame as wide as the screen; media queries see the frame's width.
HARNESS = """<!doctype html><iframe id="frame" style="border:0;height:900px"></iframe>
<pre id="result"></pre><script>
const pages = PAGES, width = WIDTH, found = [];
const frame = document.getElementById("frame");
frame.style.width = width + "px";
async function measured(page) {
  await new Promise(done => { frame.onload = done; frame.src = page; });
  await new Promise(done => setTimeout(done, 300));
  const root = frame.contentDocument.documentElement;
  const wraps = [...root.querySelectorAll(".md-typeset__scrollwrap")];
  const cut = wraps.filter(wrap => wrap.scrollWidth > wrap.clientWidth + 1)
    .map(wrap => wrap.innerText.slice(0, 40));
  return {page, overflow: root.scrollWidth - width, cut};
}
(async () => {
  for (const page of pages) found.push(await measured(page));
  document.getElementById("result").textContent = JSON.stringify(found);
})();
</script>"""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measurements of one page at one screen width.

    Attributes:
        page: path of the page in the site.
        overflow: number of pixels by which the page is wider than the screen.
        cut: first 40 characters of each table that must be scrolled sideways.
    """

    page: str
    overflow: int
    cut: tuple[str, ...]


def measure(site: Path, width: int) -> list[Measured]:
    """Measures every page of a site at a screen width in CSS pixels.

    Args:
        site: folder of the built site.
        width: screen width in CSS pixels.

    Returns:
        The measurements of each page.

    Raises:
        FileNotFoundError: if Chromium is not installed.
        RuntimeError: if Chromium gave no result; the error contains Chromium's messages.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise FileNotFoundError("chromium is not installed: apt-get install chromium")
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("index.html"))
    harness = site / f"widths_{width}.html"
    text = HARNESS.replace("PAGES", json.dumps(pages)).replace("WIDTH", str(width))
    harness.write_text(text)
    try:
        with served(site) as address, tempfile.TemporaryDirectory() as profile:
            window = f"--window-size={width + 100},1000"
            command = [chromium, *FLAGS, window, f"--user-data-dir={profile}"]
            run = subprocess.run(
                [*command, f"{address}/{harness.name}"], capture_output=True, text=True, timeout=600
            )
    finally:
        harness.unlink()
    result = re.search(r'<pre id="result">(.+?)</pre>', run.stdout, re.DOTALL)
    if result is None:
        raise RuntimeError(f"chromium measured nothing: {run.stderr[-2000:]}")
    found = json.loads(html.unescape(result.group(1)))
    return [Measured(each["page"], each["overflow"], tuple(each["cut"])) for each in found]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder on a free local port, and yields the server's URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            del format, args

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def main() -> None:
    """Prints the pages that are too wide or have tables that must be scrolled sideways."""
    site, *widths = sys.argv[1:]
    for width in map(int, widths):
        found = measure(Path(site), width)
        for each in found:
            if each.overflow > 0 or each.cut:
                print(width, each)
        print(f"{len(found)} pages at {width} pixels")


if __name__ == "__main__":
    main()

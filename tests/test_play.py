"""Tests the interactive page in docs/play: the logits of its networks, and its use in a browser."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.helpers.browser import PROGRAM, Browser

onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "play"
FACTS = json.loads((PAGE / "networks.json").read_text(encoding="utf-8"))
NETWORKS = {network["name"]: network for network in FACTS["networks"]}
SIDE = 28
ATOL = 1e-4  # for logits up to 10 in float32, because the order of summation differs


def as_the_page_takes_it(image: Image.Image, *, swapped: bool = False) -> np.ndarray:
    """Returns an image as the page prepares it: grey, centred in a black square, 28 x 28.

    Pillow computes the result, as uint8. `swapped` inverts the image first.
    """
    grey = image.convert("L")
    grey = ImageOps.invert(grey) if swapped else grey
    side = max(grey.size)
    square = Image.new("L", (side, side))
    square.paste(grey, ((side - grey.width) // 2, (side - grey.height) // 2))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX))


def logits(name: str, picture: np.ndarray) -> np.ndarray:
    """Returns the logits of a 28 x 28 picture, computed by onnxruntime in Python.

    `name` is one of `NETWORKS`. The picture's values are from 0 to 255.
    """
    from inception_jax.crops import interpolated

    size = NETWORKS[name]["size"]
    pixels = interpolated(picture.astype(np.float32), size, 0, half_pixel=True)
    pixels = interpolated(pixels, size, 1, half_pixel=True)
    images = ((pixels / 255 - 0.5) / 0.5)[None, :, :, None].astype(np.float32)
    session = onnxruntime.InferenceSession(
        PAGE / NETWORKS[name]["file"], providers=["CPUExecutionProvider"]
    )
    return session.run(["logits"], {"images": images})[0][0]


def test_the_numbers_beside_the_networks_are_theirs():
    assert len(NETWORKS) == 2
    assert sum((PAGE / n["file"]).stat().st_size for n in NETWORKS.values()) < 10_000_000
    for sample in FACTS["samples"][:2]:
        with Image.open(PAGE / sample["file"]) as image:
            picture = as_the_page_takes_it(image)
        for name in NETWORKS:
            np.testing.assert_allclose(logits(name, picture), sample["logits"][name], atol=ATOL)


def test_most_samples_are_recognised():
    for name, network in NETWORKS.items():
        right = [
            network["classes"][int(np.argmax(sample["logits"][name]))] == sample["label"]
            for sample in FACTS["samples"]
        ]
        assert np.mean(right) >= 0.8, name


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Builds the page without the site's theme, serves it, and yields its URL."""
    modules = ROOT / "examples" / "play" / "node_modules"
    node = shutil.which("node")
    if PROGRAM is None or node is None or not modules.is_dir():
        pytest.skip("needs Chromium, Node.js and `npm --prefix examples/play ci`")
    site = tmp_path_factory.mktemp("site")
    build = [node, ROOT / "examples" / "play" / "build.mjs", site / "built"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    for path in (*PAGE.glob("*.onnx"), PAGE / "networks.json", PAGE / "play.css"):
        shutil.copy(path, site)
    shutil.copytree(PAGE / "samples", site / "samples")
    markdown = (PAGE / "index.md").read_text(encoding="utf-8")
    start, end = markdown.index('<link rel="stylesheet"'), markdown.index("</script>")
    page = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">'
    page += '<meta name="viewport" content="width=device-width">'
    (site / "index.html").write_text(f"{page}{markdown[start:end]}</script>", encoding="utf-8")
    handler = functools.partial(QuietHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[(1400, False), (390, True)], ids=["desk", "phone"])
def browser(request, tmp_path, address):
    width, touch = request.param
    with Browser(tmp_path / "profile", width, 844, touch) as browser:
        browser.open(address)
        wait_for(browser, "inception_v1", "T-shirt")
        yield browser
        assert browser.errors == []
        outside = [r for r in browser.requests if not r.startswith((address, "data:"))]
        assert [r for r in outside if r != "about:blank"] == []


def wait_for(browser: Browser, *words: str) -> None:
    text = "document.getElementById('play-status')?.textContent"
    browser.wait(f"{json.dumps(words)}.every((word) => {text}?.includes(word))")


def shown_logits(browser: Browser) -> np.ndarray:
    lines = browser.value("document.getElementById('play-logits').textContent").splitlines()
    return np.array([float(line.split()[-1]) for line in lines])


@pytest.mark.slow
def test_in_a_browser(browser, tmp_path):
    """The page's logits match Python's for samples, files, and lines drawn with keys or touch."""
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    browser.value("document.getElementById('play-check').click()")
    checked = "document.getElementById('play-checked').textContent"
    report = browser.wait(f"{checked}.includes('against Python') && {checked}")
    differences = [float(part.split()[0].rstrip(";")) for part in report.split("difference ")[1:]]
    assert len(differences) == 2
    assert max(differences) < ATOL

    check_files(browser, tmp_path)
    check_classes_and_stages(browser)
    check_keyboard(browser)
    if browser.value("'ontouchstart' in window"):
        check_touch(browser)


def check_files(browser: Browser, folder: Path) -> None:
    """Image files of unusual sizes give the same logits on the page as in Python.

    They are RGB images, two dark and one light. The page must invert only the light one. The files
    are written to `folder`.
    """
    rng = np.random.default_rng(0)
    for k, (size, light) in enumerate([((57, 131), False), ((203, 90), True), ((5, 9), False)]):
        pixels = rng.integers(200 if light else 0, 256 if light else 90, (*size, 3), np.uint8)
        pixels[size[0] // 4 : -size[0] // 4, size[1] // 3 : -size[1] // 3] = (30, 200, 90 + k)
        path = folder / f"{k}.png"
        Image.fromarray(pixels).save(path)
        before = shown_logits(browser)
        browser.choose_files("#play-file", path)
        browser.wait(f"document.getElementById('play-invert').checked === {str(light).lower()}")
        picture = as_the_page_takes_it(Image.fromarray(pixels), swapped=light)
        for name in NETWORKS:
            choose_network(browser, name)
            expected = logits(name, picture)
            wait_until_close(browser, expected)
            assert np.abs(before - expected).max() > ATOL


def choose_network(browser: Browser, name: str) -> None:
    browser.value(
        f"(() => {{ const list = document.getElementById('play-network'); list.value = '{name}';"
        "list.dispatchEvent(new Event('change')); })()"
    )
    wait_for(browser, f"{name} sees")


def wait_until_close(browser: Browser, expected: np.ndarray) -> None:
    text = "document.getElementById('play-logits').textContent"
    found = f"{text}.split('\\n').map((line) => +line.trim().split(/\\s+/).at(-1))"
    browser.wait(
        f"{found}.every((x, i) => Math.abs(x - {json.dumps(expected.tolist())}[i]) < {ATOL})", 20
    )


def check_classes_and_stages(browser: Browser) -> None:
    """The page shows five classes, the chosen class's heat map, and every stage's feature maps."""
    buttons = "document.querySelectorAll('#play-classes button')"
    assert browser.value(f"{buttons}.length") == 5
    heat = "document.getElementById('play-heat').toDataURL()"
    before = browser.value(heat)
    browser.value(f"{buttons}[1].click()")
    assert browser.value(heat) != before
    name = browser.value("document.getElementById('play-network').value")
    captions = browser.value(
        "[...document.querySelectorAll('#play-stages figcaption')].map((x) => x.textContent)"
    )
    assert [caption.partition(":")[0] for caption in captions] == NETWORKS[name]["stages"]
    drawn = "(c) => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size > 5"
    assert browser.value(f"[...document.querySelectorAll('#play-stages canvas')].every({drawn})")


def check_keyboard(browser: Browser) -> None:
    """A line drawn with the keyboard changes the picture and the logits."""
    browser.value("document.getElementById('play-clear').click()")
    wait_until_close(browser, logits(current(browser), np.zeros((SIDE, SIDE), np.uint8)))
    browser.value("document.getElementById('play-board').focus()")
    browser.press(" ", 32, " ")
    for _ in range(8):
        browser.press("ArrowDown", 40)
    wait_until_close(browser, logits(current(browser), settled_picture(browser)))
    assert settled_picture(browser).max() == 220


def check_touch(browser: Browser) -> None:
    """A line drawn by touch changes the picture and the logits, and the page does not scroll."""
    browser.value("document.getElementById('play-clear').click()")
    browser.value("document.getElementById('play-board').scrollIntoView()")
    box = browser.value(
        "(() => { const b = document.getElementById('play-board').getBoundingClientRect();"
        "return [b.left, b.top, b.width]; })()"
    )
    left, top, width = box
    scrolled = browser.value("scrollY")
    points = [(left + width / 2, top + width * share) for share in (0.2, 0.4, 0.6, 0.8)]
    browser.touch(*points)
    picture = settled_picture(browser)
    assert picture[6:22, 14].min() > 100
    wait_until_close(browser, logits(current(browser), picture))
    assert browser.value("scrollY") == scrolled


def current(browser: Browser) -> str:
    return browser.value("document.getElementById('play-network').value")


def settled_picture(browser: Browser) -> np.ndarray:
    """Returns the 28 x 28 input that the page shows, as uint8, once it has stopped changing."""
    data = (
        "(() => { const c = document.getElementById('play-input'); return [...c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0); })()"
    )
    before, now = None, browser.value(data)
    while before != now:
        browser.value("new Promise((done) => setTimeout(done, 400))")
        before, now = now, browser.value(data)
    return np.array(now, np.uint8).reshape(SIDE, SIDE)

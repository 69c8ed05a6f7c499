"""Tests the report page and the plots of a run, with few and with many classes."""

from __future__ import annotations

import json
import re
import warnings
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from inception_jax import fonts
from inception_jax.cli.contact_sheet import contact_sheet
from train.report import plots
from train.report.html_report import Report
from train.report.text import drawable

HOSTILE = ["<script>alert('x')</script>", 'a" onload="b', "ä & ñ", "中文", "$x^2_$", "\udcff"]
VOID = {"meta", "img", "br", "line", "circle", "polyline"}


class Checker(HTMLParser):
    """Counts the tags of a page, and collects its text, unclosed tags and external URLs."""

    def __init__(self):
        super().__init__()
        self.open, self.counts, self.fetched, self.text = [], {}, [], []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href") and not value.startswith("data:"):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def names_of(count):
    return [*HOSTILE, *(f"class {i}" for i in range(count))][:count]


def evaluation(count):
    rng = np.random.default_rng(0)
    labels = np.arange(4 * count) % count
    predictions = np.where(rng.random(len(labels)) < 0.7, labels, (labels + 1) % count)
    counted = np.arange(len(labels)) != 1
    top1 = float((predictions == labels)[counted].mean())
    metrics = dict(eval_top1=top1, eval_top5=1.0, eval_loss=0.5, eval_examples=len(labels) - 1)
    confidence = rng.uniform(0.3, 1, len(labels))
    return SimpleNamespace(metrics=metrics, labels=labels, predictions=predictions,
                           confidence=confidence, counted=counted)  # fmt: skip


def entries(count=30):
    for step in range(1, count):
        yield dict(kind="train", step=step, epoch=step / 5, cross_entropy=1 / step, accuracy=0.5)
        if step % 5 == 0:
            yield dict(kind="eval", step=step, epoch=step / 5, eval_loss=2 / step, eval_top1=0.4,
                       eval_loss_raw=1 / step, eval_top1_raw=0.5)  # fmt: skip


def write(folder, count, channels=3, size=40):
    found, classes = evaluation(count), names_of(count)
    counts = np.zeros((count, count), int)
    keep = found.counted
    np.add.at(counts, (found.labels[keep], found.predictions[keep]), 1)
    shown = []

    def pictures(indices):
        shown.extend(indices)
        return [np.full((size, size, channels), 99, np.uint8) for _ in indices]

    report = Report(
        title="tiny on <folder>", workdir=folder, total=29, classes=classes,
        configuration={"epochs": (4.0, 9.0), "image_size": (16, 16)},
        facts={"Recipe": "demo"}, environment={"jax": "1"}, pictures=pictures,
    )  # fmt: skip
    report.write(29, list(entries()), found, counts)
    return (folder / "report.html").read_text(), found, shown


@pytest.mark.parametrize("count", [2, 3, 10, 200])
def test_the_page_is_whole_and_fetches_nothing(tmp_path, count):
    text, found, shown = write(tmp_path, count, channels=1 if count == 3 else 3)
    page = Checker()
    page.feed(text)
    assert page.open == []
    assert page.fetched == []
    assert "script" not in page.counts
    assert "url(" not in text
    assert len(text) < 300_000
    visible = "".join(page.text)
    assert HOSTILE[0] in visible
    assert ("中文" in visible) == (count > 3)
    assert f"{100 * found.metrics['eval_top1']:.1f}" in visible
    assert ("Top-5" in visible) == (count > 5)
    assert ("Confusion matrix" in visible) == (count <= 20)
    assert ("Most frequent confusions" in visible) == (count > 20)
    assert page.counts["img"] == len(shown)
    assert "ij.load(" in visible
    # Wrong predictions come first, the most confident at the top. Image 1 does not count.
    wrong = [i for i in shown if found.labels[i] != found.predictions[i]]
    assert list(shown[: len(wrong)]) == wrong
    assert np.all(np.diff(found.confidence[wrong]) <= 0)
    assert 1 not in shown
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_the_page_without_mistakes_or_without_hits(tmp_path):
    def pictures(indices):
        return [np.zeros((90, 60, 3), np.uint8) for _ in indices]

    for predicted in (0, 1):
        found = evaluation(2)
        found.labels[:], found.predictions[:] = 0, predicted
        counts = np.array([[7, 0], [0, 0]]) if predicted == 0 else np.array([[0, 7], [0, 0]])
        report = Report("t", tmp_path, 9, ["a", "b"], {}, {}, {}, pictures)
        report.write(3, [], found, counts)
        text = (tmp_path / "report.html").read_text()
        assert ("<h2>Most wrong</h2>" in text) == (predicted == 1)
        assert ("<h2>Right</h2>" in text) == (predicted == 0)
        assert "step 3 of 9" in text


@pytest.mark.filterwarnings("default")
def test_a_run_writes_its_page_unless_told_not_to(pictures, train_here, tmp_path):
    options = ["--arch", "tiny", "--steps", "4", "--batch-size", "10", "--no-tensorboard"]
    assert train_here(*options, "--workdir", "w", "--seed", "3")[0] == 0
    text = (tmp_path / "w/report.html").read_text()
    result = json.loads((tmp_path / "w/result.json").read_text())
    assert f"{100 * result['eval_top1']:.1f}" in text
    assert "step 4 of 4, finished" in text
    rows = dict(re.findall(r"<tr><td>(--[\w-]+)</td><td>([^<]*)</td>", text))
    assert rows["--steps"] == "4"
    assert rows["--seed"] == "3"
    assert "--tensorboard" in rows
    assert "--dropout" not in rows  # as in the recipe
    assert train_here(*options, "--workdir", "v", "--no-report")[0] == 0
    assert not (tmp_path / "v/report.html").exists()


# ---- Plots ----


@pytest.mark.parametrize("count", [1, 2, 61])
def test_pictures_of_any_number_of_classes(tmp_path, count):
    """Plots are drawn without a warning for one, two and many classes.

    Matplotlib warns about characters without a glyph, and about layouts without room.
    """
    names, found = names_of(count), evaluation(max(count, 2))
    counts = np.eye(count, dtype=int) * 5
    images = [np.zeros((20, 20, 3), np.uint8)] * min(len(found.labels), 50)
    labels = np.minimum(found.labels, count - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.draw_confusion(tmp_path, counts, names)
        plots.draw_predictions(tmp_path, images, labels, labels[::-1], names)
        (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, entries())))
        plots.draw_curves(tmp_path, "tiny")
    with Image.open(tmp_path / "predictions.png") as sheet:
        width, height = sheet.size
    if count == 2:
        assert height < width < 700  # eight pictures need no sheet of fifty
    assert "cross-entropy" in (tmp_path / "curves.svg").read_text()


def test_old_metrics_have_no_plain_loss_to_compare():
    old = [dict(kind="train", step=1, epoch=1, loss=9.0, accuracy=0.1)]
    figure = plots.curves([*old, *entries()])
    losses = figure.axes[0].lines[0].get_ydata()
    assert 9.0 not in losses
    plots.plt.close(figure)


def test_what_no_font_has_is_escaped_and_said_once(monkeypatch, capsys):
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    fonts._say.cache_clear()
    assert drawable(["ä ñ", "中", "a\nb"], 20) == ["ä ñ", "\\u4e2d", "a\\nb"]
    drawable(["中"], 20)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\\u4e2d" in err
    fonts._say.cache_clear()


def test_installed_fonts_are_used():
    _, missing = fonts.fallbacks(["中"], fonts.ImageFont.load_default(16))
    if missing:
        pytest.skip("no installed font has it")
    assert drawable(["中"], 20) == ["中"]


def test_names_on_a_contact_sheet():
    """Characters that Pillow's default font lacks are not all drawn as the same box."""
    if fonts.fallbacks("中文", fonts.ImageFont.load_default(16))[1]:
        pytest.skip("no installed font has them")
    picture = Image.new("RGB", (20, 20))
    sheets = [np.asarray(contact_sheet([picture], [(name,)])) for name in ("中", "文", "ñ", "n")]
    for i, one in enumerate(sheets):
        for other in sheets[:i]:
            assert (one != other).any()

"""`report.html`: the results of a run in one self-contained file."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.report.charts import Line, chart
from train.storage import atomic_write

_MATRIX = 20  # largest number of classes for which a matrix is shown
_ROWS = 20  # rows of a table that are not collapsed
_RIGHT, _WRONG = 12, 24  # pictures of right and wrong predictions
_SIDE = 160  # pixels of the longer side of a picture, at most


@dataclasses.dataclass(frozen=True)
class Report:
    """The content of a run's report, except its evaluations.

    Attributes:
        title: title of the page, which names the network and the data set.
        workdir: folder of the run, where the report is written.
        total: last step of the run.
        classes: names of the classes.
        configuration: tuples (value in the recipe, value in the run), by option.
        facts: values to show in boxes, by title.
        environment: versions and devices, by title.
        pictures: function that returns test images, uint8 [h, w, c], by their indices.
    """

    title: str
    workdir: Path
    total: int
    classes: Sequence[str]
    configuration: Mapping[str, tuple[Any, Any]]
    facts: Mapping[str, Any]
    environment: Mapping[str, Any]
    pictures: Callable[[np.ndarray], list[np.ndarray]]

    def write(
        self,
        step: int,
        entries: Sequence[Mapping[str, Any]],
        evaluation: Any,
        counts: np.ndarray,
    ) -> None:
        """Writes the page, or replaces it.

        Args:
            step: step of the evaluation.
            entries: entries of `metrics.jsonl`.
            evaluation: an `Evaluation`.
            counts: numbers of images by label (row) and prediction (column).
        """
        sections = [
            self._head(step, evaluation.metrics),
            _curves(entries),
            self._pictures(evaluation),
            _class_table(counts, self.classes),
            _matrix(counts, self.classes),
            self._use(step),
            _options(self.configuration),
            _table(
                "Environment", ("", ""), [(_text(k), _text(v)) for k, v in self.environment.items()]
            ),
        ]
        style = resources.files("train.report").joinpath("style.css").read_text()
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_text(self.title)}</title><style>\n{style}</style></head>\n<body>\n"
            + "\n".join(sections)
            + "\n</body></html>\n"
        )
        with atomic_write(self.workdir / "report.html") as path:
            path.write_bytes(page.encode(errors="backslashreplace"))

    def _head(self, step: int, metrics: Mapping[str, Any]) -> str:
        count, top1 = metrics["eval_examples"], metrics["eval_top1"]
        low, high = _interval(top1, count)
        state = f"step {step:,} of {self.total:,}" + ("" if step < self.total else ", finished")
        facts = {
            **({"Top-5": _percent(metrics["eval_top5"])} if len(self.classes) > 5 else {}),
            "Loss": f"{metrics['eval_loss']:.3f}",
            **self.facts,
        }
        boxes = "".join(
            f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items()
        )
        return (
            f'<h1>{_text(self.title)}</h1><p class="soft">{state}</p>'
            f'<div class="headline"><b>{_percent(top1)}</b>'
            f"<span>top-1 accuracy on {count:,} test images</span></div>"
            f'<p class="soft">95 % interval {_percent(low)} to {_percent(high)}; guessing '
            f"one of {len(self.classes)} classes gives {_percent(1 / len(self.classes))}</p>"
            f'<dl class="facts">{boxes}</dl>'
        )

    def _pictures(self, evaluation: Any) -> str:
        """Returns HTML with images: the most confident wrong predictions, and some right ones."""
        right = evaluation.predictions == evaluation.labels
        wrong = np.flatnonzero(evaluation.counted & ~right)
        wrong = wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")][:_WRONG]
        correct = np.flatnonzero(evaluation.counted & right)
        if len(correct) > _RIGHT:
            correct = correct[np.linspace(0, len(correct) - 1, _RIGHT).astype(int)]
        images = iter(self.pictures(np.concatenate([wrong, correct])))
        parts = []
        for title, chosen in (("Most wrong", wrong), ("Right", correct)):
            figures = [self._figure(next(images), int(i), evaluation) for i in chosen]
            if figures:
                parts.append(f'<h2>{title}</h2><div class="pictures">{"".join(figures)}</div>')
        return "\n".join(parts)

    def _figure(self, image: np.ndarray, index: int, evaluation: Any) -> str:
        label, said = int(evaluation.labels[index]), int(evaluation.predictions[index])
        style = "right" if label == said else "wrong"
        truth = "" if label == said else f"<br>is {_name(self.classes[label])}"
        tiny = ' class="tiny"' if max(image.shape[:2]) <= 64 else ""
        return (
            f'<figure><img src="{_encoded(image)}"{tiny} alt="{_text(self.classes[label])}">'
            f'<figcaption><span class="{style}">{_name(self.classes[said])}</span> '
            f"{_percent(float(evaluation.confidence[index]), 0)}{truth}</figcaption></figure>"
        )

    def _use(self, step: int) -> str:
        folder = str(self.workdir)
        when = "" if step >= self.total else '<p class="soft">Once the run is finished:</p>'
        code = (
            f"model = ij.load({folder!r})  # import inception_jax as ij\n"
            'ij.classify(model, "photo.jpg")  # [[(name, probability), ...]]\n'
            f"$ inception-jax predict photo.jpg --weights {folder}"
        )
        return f"<h2>Use the weights</h2>{when}<pre>{_text(code)}</pre>"


def _curves(entries: Sequence[Mapping[str, Any]]) -> str:
    train = [e for e in entries if e["kind"] == "train" and "cross_entropy" in e]
    evals = [e for e in entries if e["kind"] == "eval"]
    averages = any(e["eval_loss"] != e["eval_loss_raw"] for e in evals)
    charts = []
    for what, batch, key, most in (
        ("Cross-entropy, labels not smoothed", "cross_entropy", "eval_loss", None),
        ("Top-1 accuracy", "accuracy", "eval_top1", 1.0),
    ):
        named = "test, averaged weights" if averages else "test"
        lines = [
            Line("training batches", "train", [(e["epoch"], e[batch]) for e in train]),
            Line(named, "test", [(e["epoch"], e[key]) for e in evals]),
        ]
        if averages:
            raw = [(e["epoch"], e[f"{key}_raw"]) for e in evals]
            lines.append(Line("test, weights of the step", "raw", raw))
        charts.append(chart(lines, what, most=most))
    return f'<h2>Curves</h2><div class="charts">{"".join(charts)}</div>'


def _class_table(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Returns an HTML table of the classes, worst first. If it is long, its end is collapsed."""
    images, hits = counts.sum(1), counts.diagonal()
    shares = np.where(images > 0, hits / np.maximum(images, 1), 2.0)  # without images: last
    rows = []
    for i in np.argsort(shares, kind="stable"):
        wrong = counts[i].copy()
        wrong[i] = 0
        other = int(wrong.argmax())
        taken = f"{_name(classes[other])} ({wrong[other]})" if wrong[other] else ""
        accuracy = _percent(float(shares[i])) if images[i] else ""
        bar = f'<i style="width:{100 * shares[i]:.0f}%"></i>' if images[i] else ""
        rows.append((_name(classes[i]), f"{images[i]:,}", accuracy, bar, taken))
    head = ("class", "images", "accuracy", "", "most often taken for")
    kinds = ("", "n", "n", "bar", "")
    if len(rows) <= _ROWS * 1.5:
        return _table("Classes", head, rows, kinds)
    first = _table(f"Classes: the {_ROWS} worst of {len(rows)}", head, rows[:_ROWS], kinds)
    rest = _table("", head, rows[_ROWS:], kinds)
    return f"{first}<details><summary>The other {len(rows) - _ROWS}</summary>{rest}</details>"


def _matrix(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Returns the confusion matrix as HTML; for many classes, the most frequent confusions.

    `counts` has a row for each true class and a column for each predicted one.
    """
    images = counts.sum(1)
    if len(classes) > _MATRIX:
        wrong = counts * ~np.eye(len(classes), dtype=bool)
        order = np.argsort(-wrong, axis=None, kind="stable")[:_ROWS]
        pairs = [divmod(int(i), len(classes)) for i in order if wrong.flat[i]]
        rows = [
            (
                _name(classes[a]),
                _name(classes[b]),
                f"{wrong[a, b]:,}",
                _percent(wrong[a, b] / images[a]),
            )
            for a, b in pairs
        ]
        head = ("class", "taken for", "images", "of the class")
        return _table("Most frequent confusions", head, rows, ("", "", "n", "n")) if rows else ""
    head = "".join(f"<th><span>{_name(name)}</span></th>" for name in classes)
    body = []
    for i, name in enumerate(classes):
        shares = counts[i] / max(images[i], 1)
        cells = "".join(_cell(int(n), float(s)) for n, s in zip(counts[i], shares, strict=True))
        body.append(f'<tr><th title="{_text(name)}">{_name(name)}</th>{cells}</tr>')
    return (
        '<h2>Confusion matrix</h2><p class="soft">A row for each class, a column for each '
        'prediction, in images.</p><div class="wide"><table class="matrix"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(count: int, share: float) -> str:
    dark = ' class="dark"' if share > 0.5 else ""
    return (
        f'<td{dark} style="background:rgba(47,111,181,{max(share, 0.04):.2f})">{count or ""}</td>'
    )


def _options(configuration: Mapping[str, tuple[Any, Any]]) -> str:
    rows = [
        (f"--{_text(name.replace('_', '-'))}", _text(value), "" if value == usual else _text(usual))
        for name, (usual, value) in configuration.items()
    ]
    return _table("Configuration", ("option", "value", "recipe, where it differs"), rows)


def _table(
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    kinds: Sequence[str] | None = None,
) -> str:
    """Returns an HTML table.

    Args:
        title: heading above the table; empty for none.
        head: titles of the columns, as plain text.
        rows: cells of each row, as HTML.
        kinds: CSS class of each column, or "" for a column without a class; None for no classes.
    """
    kinds = kinds or [""] * len(head)
    styles = [f' class="{kind}"' if kind else "" for kind in kinds]
    names = "".join(f"<th{s}>{_text(h)}</th>" for s, h in zip(styles, head, strict=True))
    top = f"<thead><tr>{names}</tr></thead>" if any(head) else ""
    body = "".join(
        "<tr>" + "".join(f"<td{s}>{c}</td>" for s, c in zip(styles, row, strict=True)) + "</tr>"
        for row in rows
    )
    heading = f"<h2>{_text(title)}</h2>" if title else ""
    return f'{heading}<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'


def _encoded(image: np.ndarray) -> str:
    """Returns an image as a data URL."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((_SIDE, _SIDE))
    stream, small = io.BytesIO(), max(picture.size) <= 64
    picture.save(stream, "PNG" if small else "JPEG", **({} if small else {"quality": 82}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _interval(share: float, count: int) -> tuple[float, float]:
    """Returns the bounds of Wilson's 95 % confidence interval for a share of `count` images."""
    z = 1.96
    middle, spread = (
        share + z * z / (2 * count),
        share * (1 - share) / count + (z / (2 * count)) ** 2,
    )
    scale = 1 + z * z / count
    half = z * math.sqrt(spread)
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\u00a0%"


def _name(text: Any) -> str:
    """Returns the HTML of a name, which keeps its own writing direction."""
    return f"<bdi>{_text(text)}</bdi>"


def _text(value: Any) -> str:
    return html.escape(str(value))

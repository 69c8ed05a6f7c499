"""What a run says: a progress bar or lines, and `metrics.jsonl`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm


class Reporter:
    """Writes metrics, and shows progress on standard output.

    Args:
        workdir: folder of `metrics.jsonl`. Entries after `start`, left by a run that was killed
            after its last checkpoint, are dropped.
        start: step at which this process takes up the run.
        total: last step.
        steps_per_epoch: for the epoch and the remaining time.
        batch_size: images in a step.
    """

    def __init__(
        self, workdir: Path, start: int, total: int, steps_per_epoch: int, batch_size: int
    ):
        self._path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(workdir) if line["step"] <= start]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._total = total
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)
        self._last_step, self._last_time, self._away = start, time.monotonic(), 0.0

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Reports the mean metrics of the steps since the last report."""
        now = time.monotonic()
        rate = (step - self._last_step) / max(now - self._last_time - self._away, 1e-9)
        self._last_step, self._last_time, self._away = step, now, 0.0
        epoch = step / self._steps_per_epoch
        images = rate * self._batch_size
        self._write(dict(kind="train", step=step, epoch=epoch, images_per_s=images, **metrics))
        if self._bar is not None:
            self._bar.set_postfix(
                epoch=f"{epoch:.2f}", loss=f"{metrics['loss']:.3f}", lr=f"{metrics['lr']:.2g}"
            )
            return
        self.say(
            f"step {step}/{self._total}  epoch {epoch:.2f}  loss {metrics['loss']:.4f}  "
            f"lr {metrics['lr']:.3g}  {images:.0f} images/s  "
            f"ETA {_duration((self._total - step) / rate)}"
        )

    def tick(self) -> None:
        """Moves the progress bar by a step."""
        if self._bar is not None:
            self._bar.update()

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Reports an evaluation."""
        epoch = step / self._steps_per_epoch
        self._write(dict(kind="eval", step=step, epoch=epoch, **metrics))
        self.say(
            f"evaluated at step {step}  top-1 {metrics['eval_top1']:.2%}  "
            f"top-5 {metrics['eval_top5']:.2%}  loss {metrics['eval_loss']:.4f}  "
            f"({metrics['eval_examples']} images)"
        )

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Leaves the time that its body takes out of the training rate."""
        start = time.monotonic()
        yield
        self._away += time.monotonic() - start

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Ends the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def _write(self, entry: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the entries of `metrics.jsonl`; a last line cut off by a kill is left out."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n") if path.exists() else []
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def last_loss(workdir: Path) -> float | None:
    """Returns the last training loss that was logged."""
    losses = [entry["loss"] for entry in read_metrics(workdir) if entry["kind"] == "train"]
    return losses[-1] if losses else None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

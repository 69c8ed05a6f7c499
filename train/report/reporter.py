"""Reports a run: a progress bar or lines, `metrics.jsonl`, TensorBoard, Weights & Biases."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from train import storage
from train.hosts import hardware, processes
from train.report.report_options import ReportOptions

_LOG = logging.getLogger("inception_jax.report")


@dataclasses.dataclass
class Reporter:
    """Writes metrics and shows progress, in process 0 only.

    Progress is a bar if standard error is a terminal, and otherwise lines on standard output.
    Entries of `metrics.jsonl` after step `start`, where this process resumes the run, are removed:
    a run that was killed after its last checkpoint leaves such entries.
    """

    options: ReportOptions
    workdir: Path
    start: int  # step at which this process resumes the run
    total: int  # last step
    steps_per_epoch: int
    batch_size: int
    configuration: Mapping[str, Any]  # of the run, for Weights & Biases
    flops: float | None = None  # of a step on one device, if it is known
    classes: int = 1000

    def __post_init__(self) -> None:
        self._main = processes.is_main()
        path = self.workdir / "metrics.jsonl"
        self._peak = hardware.peak_flops(jax.devices()[0].device_kind)
        self._bar = None
        self._sinks: list[Any] = []
        if self._main:
            kept = [line for line in read_metrics(self.workdir) if line["step"] <= self.start]
            with storage.atomic_write(path) as partial:
                partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
            self._log = storage.Log(path)
            if self.options.tensorboard:
                self._sinks.append(_TensorBoard(self.workdir, self.start))
            if self.options.wandb:
                self._sinks.append(_Wandb(self.options.wandb, self.workdir, self.configuration))
            if sys.stderr.isatty():
                self._bar = tqdm(
                    total=self.total, initial=self.start, unit="step", dynamic_ncols=True
                )
        self._depth = 0  # nesting depth of `away`
        self._recurring = 0.0  # seconds in `away` since the start, for recurring work
        self._reset(self.start)

    def _reset(self, step: int) -> None:
        self._last_step, self._last_time = step, time.monotonic()
        self._away = self._waited = 0.0

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Reports the mean metrics of the steps since the last call."""
        seconds = max(time.monotonic() - self._last_time - self._away, 1e-9)
        rate = (step - self._last_step) / seconds
        waited = self._waited / seconds
        left = (self.total - step) * (1 / rate + self._recurring / (step - self.start))
        self._reset(step)
        epoch = step / self.steps_per_epoch
        images = rate * self.batch_size
        speed = dict(
            images_per_s=images,
            images_per_s_device=images / jax.device_count(),
            data_wait=waited,
        )
        if self.flops and self._peak:
            speed["mfu"] = self.flops * rate / self._peak
        self._write(dict(kind="train", step=step, epoch=epoch, **speed, **metrics))
        if self._bar is not None:
            self._bar.set_postfix(
                epoch=f"{epoch:.2f}", loss=f"{metrics['loss']:.3f}", lr=f"{metrics['lr']:.2g}"
            )
            return
        mfu = f"  MFU {speed['mfu']:.1%}" if "mfu" in speed else ""
        self.say(
            f"step {step}/{self.total}  epoch {epoch:.2f}  loss {metrics['loss']:.4f}  "
            f"lr {metrics['lr']:.3g}  {images:.0f} images/s  waiting for data {waited:.0%}{mfu}  "
            f"ETA {_duration(left)}"
        )

    def tick(self) -> None:
        """Moves the progress bar forward by a step."""
        if self._bar is not None:
            self._bar.update()

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Prints the main metrics of an evaluation, and writes all to the log.

        `metrics` are those of an `Evaluation`.
        """
        epoch = step / self.steps_per_epoch
        self._write(dict(kind="eval", step=step, epoch=epoch, **metrics))
        top5 = f"top-5 {metrics['eval_top5']:.2%}  " if self.classes > 5 else ""
        self.say(
            f"evaluated at step {step}  top-1 {metrics['eval_top1']:.2%}  {top5}"
            f"loss {metrics['eval_loss']:.4f}  ({metrics['eval_examples']} images)"
        )
        self.flush()

    def flush(self) -> None:
        """Writes out all entries. Until this is called, files in a bucket may lack the newest."""
        if self._main:
            self._log.flush()
            for sink in self._sinks:
                sink.flush()

    @contextlib.contextmanager
    def away(self, *, once: bool = False) -> Iterator[None]:
        """Context manager: excludes the time of the body from the training speed. Can be nested.

        Args:
            once: whether the body is work that is not repeated. The estimate of the remaining time
                includes only repeated work.
        """
        start = time.monotonic()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._depth == 0:
            seconds = time.monotonic() - start
            self._away += seconds
            self._recurring += 0 if once else seconds

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context manager: counts the time of the body as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if not self._main:
            return
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Closes the progress bar and all outputs."""
        if self._bar is not None:
            self._bar.close()
        ends = [self._log.flush] if self._main else []
        for end in [*ends, *(sink.close for sink in self._sinks)]:
            try:
                end()
            except Exception as error:  # must not replace the error that ends the run
                _LOG.warning("the last lines are not written: %s", error)

    def _write(self, entry: Mapping[str, Any]) -> None:
        if not self._main:
            return
        self._log.append(json.dumps(entry))
        for sink in self._sinks:
            sink.write(entry)


class _TensorBoard:
    def __init__(self, workdir: Path, start: int):
        from tensorboardX import SummaryWriter  # takes a second, because it imports torch

        self._mirror = storage.Mirror(workdir / "tensorboard")
        # Hides entries of a killed run after the step at which this run resumes.
        purge_step = start + 1 if start else None
        self._writer = SummaryWriter(str(self._mirror.folder), purge_step=purge_step)

    def write(self, entry: Mapping[str, Any]) -> None:
        for name, value in _numbers(entry).items():
            self._writer.add_scalar(f"{entry['kind']}/{name}", value, entry["step"])

    def flush(self) -> None:
        self._writer.flush()
        self._mirror.flush()

    def close(self) -> None:
        self._writer.close()
        self._mirror.close()


class _Wandb:
    def __init__(self, project: str, workdir: Path, configuration: Mapping[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports]  # optional

        # The run's id is the name of the workdir, so the same command resumes the same run.
        name = storage.absolute(workdir).name
        self._run = wandb.init(
            project=project,
            dir=None if storage.is_remote(workdir) else str(workdir),
            name=name,
            id=name,
            resume="allow",
            config=dict(configuration),
        )

    def write(self, entry: Mapping[str, Any]) -> None:
        named = {f"{entry['kind']}/{name}": value for name, value in _numbers(entry).items()}
        self._run.log(named, step=entry["step"])

    def flush(self) -> None:
        """Does nothing, because wandb uploads by itself."""

    def close(self) -> None:
        self._run.finish()


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in entry.items() if name not in ("kind", "step")}


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the entries of `metrics.jsonl`. Lines that a kill has truncated are skipped."""
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
    """Returns the last training loss in `metrics.jsonl`; None if there is none."""
    losses = [entry["loss"] for entry in read_metrics(workdir) if entry["kind"] == "train"]
    return losses[-1] if losses else None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

"""What a run says: a progress bar or lines, `metrics.jsonl`, TensorBoard, Weights & Biases."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from train.config.options import Config
from train.config.workdir import as_json
from train.errors import UsageError
from train.hosts import hardware, processes


class Reporter:
    """Writes metrics, and shows progress on standard output; in process 0 alone.

    Args:
        config: of the run. Entries of `metrics.jsonl` after `start`, left by a run that was killed
            after its last checkpoint, are dropped.
        start: step at which this process takes up the run.
        total: last step.
        steps_per_epoch: for the epoch and the remaining time.

    Attributes:
        flops: of a step on one device, if it is known.
    """

    flops: float | None = None

    def __init__(self, config: Config, start: int, total: int, steps_per_epoch: int):
        self._main = processes.is_main()
        self._path = config.workdir / "metrics.jsonl"
        self._total = total
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = config.batch_size
        self._peak = hardware.peak_flops(jax.devices()[0].device_kind)
        self._bar = None
        self._sinks: list[Any] = []
        if self._main:
            kept = [line for line in read_metrics(config.workdir) if line["step"] <= start]
            self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))
            self._sinks = _sinks(config, start)
            if sys.stderr.isatty():
                self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)
        self._last_step, self._last_time, self._away, self._waited = start, time.monotonic(), 0, 0

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Reports the mean metrics of the steps since the last report."""
        now = time.monotonic()
        seconds = max(now - self._last_time - self._away, 1e-9)
        rate = (step - self._last_step) / seconds
        waited = min(self._waited / seconds, 1.0)
        self._last_step, self._last_time, self._away, self._waited = step, now, 0, 0
        epoch = step / self._steps_per_epoch
        images = rate * self._batch_size
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
            f"step {step}/{self._total}  epoch {epoch:.2f}  loss {metrics['loss']:.4f}  "
            f"lr {metrics['lr']:.3g}  {images:.0f} images/s  waiting for data {waited:.0%}{mfu}  "
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

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time that its body takes as waiting for data."""
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
        """Ends the progress bar and what is written to."""
        if self._bar is not None:
            self._bar.close()
        for sink in self._sinks:
            sink.close()

    def _write(self, entry: Mapping[str, Any]) -> None:
        if not self._main:
            return
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        for sink in self._sinks:
            sink.write(entry)


class _TensorBoard:
    def __init__(self, config: Config, start: int):
        from tensorboardX import SummaryWriter  # which takes a second: it imports torch for itself

        folder = str(config.workdir / "tensorboard")
        # Hides what a killed run wrote after the step that this one takes up.
        self._writer = SummaryWriter(folder, purge_step=start + 1 if start else None)

    def write(self, entry: Mapping[str, Any]) -> None:
        for name, value in _numbers(entry).items():
            self._writer.add_scalar(f"{entry['kind']}/{name}", value, entry["step"])

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, config: Config):
        try:
            import wandb  # pyright: ignore[reportMissingImports]  # optional
        except ModuleNotFoundError:
            raise UsageError("--wandb needs the package wandb: pip install wandb") from None
        # The name of the workdir, so that the same command goes on with the same run.
        name = config.workdir.absolute().name
        self._run = wandb.init(
            project=config.wandb,
            dir=str(config.workdir),
            name=name,
            id=name,
            resume="allow",
            config=as_json(config),
        )

    def write(self, entry: Mapping[str, Any]) -> None:
        named = {f"{entry['kind']}/{name}": value for name, value in _numbers(entry).items()}
        self._run.log(named, step=entry["step"])

    def close(self) -> None:
        self._run.finish()


def _sinks(config: Config, start: int) -> list[Any]:
    tensorboard = [_TensorBoard(config, start)] if config.tensorboard else []
    return tensorboard + ([_Wandb(config)] if config.wandb else [])


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in entry.items() if name not in ("kind", "step")}


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

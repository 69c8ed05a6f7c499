"""The training loop."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from train.compile import compile_only, dry_run
from train.config import workdir
from train.config.options import Config, profile_range
from train.data import pipeline
from train.data.datasets import Dataset
from train.engine import ahead, job
from train.engine.checkpoint import Checkpoints
from train.engine.evaluation import Evaluation, Interrupted
from train.engine.job import Job
from train.errors import TrainingError, UsageError
from train.hosts import processes
from train.report import plots, results
from train.report.reporting import Reporter, last_loss

Result = dict[str, Any]

# So many steps skipped in a row are no accident.
_SKIPPED_IN_A_ROW = 50
_SECONDS_BETWEEN_CURVES = 60


class Preempted(Exception):
    """SIGTERM came; the state is saved."""


def run(config: Config, dataset: Dataset) -> Result:
    """Trains to the end, from the newest checkpoint if there is one, and evaluates.

    Returns:
        What the last line of standard output says.

    Raises:
        UsageError: if the configuration cannot be run.
        TrainingError: if it cannot go on: the loss is not finite, too many images are bad, a
            checkpoint cannot be written.
        Preempted: after SIGTERM.
    """
    if config.compile_only is not None:
        return compile_only.describe(config, dataset)
    processes.connect(config)
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if config.dry_run:
        return dry_run.describe(job.prepare(config, dataset))
    stop = processes.Preemption()
    this = job.prepare(config, dataset)
    processes.main_first(lambda: _claim(this))
    job.keep_compiled(config)
    with Checkpoints(config.workdir, this.devices.replicated, config.keep_checkpoints) as saved:
        restored = saved.restore(this.packing.like)
        start = 0 if restored is None else int(restored.step)
        if restored is not None:
            this.state = restored
        try:
            if config.eval_only:
                return results.result(this, start, None, this.evaluate(this.state, stop))
            finished = _finished(config, start, this.total)
            if finished is not None:
                return finished
            return _Run(this, start, saved, stop).to_the_end()
        except Interrupted:  # only in an evaluation of a state that is saved already
            raise Preempted(
                "SIGTERM while evaluating: the same command goes on from here"
            ) from None


class _Run:
    """From the state that a job has to its last step."""

    def __init__(self, this: Job, start: int, checkpoints: Checkpoints, stop: processes.Preemption):
        self.job, self.config = this, this.config
        self.checkpoints, self.stop = checkpoints, stop
        self.start = start
        self.eval_steps = max(round(self.config.eval_every * this.per_epoch), 1)
        self.pending: list[dict[str, jax.Array]] = []
        self.skipped = 0
        self.loss = last_loss(self.config.workdir)
        self.profile = profile_range(self.config) or (-1, -1)
        self.drawn = time.monotonic()
        self.reporter = Reporter(self.config, self.start, this.total, this.per_epoch)

    def to_the_end(self) -> Result:
        """Trains; leaves weights, pictures and the result in the workdir."""
        this = self.job
        self.reporter.say(results.headline(this, self.start))
        try:
            evaluation = self._train() if self.start < this.total else None
            # None: a run that was killed between its last checkpoint and its result.
            evaluation = evaluation or self._evaluate(this.total)
            return results.finish(this, self.loss, evaluation)
        finally:
            self.reporter.close()

    def _train(self) -> Evaluation | None:
        this, evaluation, compiled = self.job, None, None
        share = (jax.process_index(), jax.process_count())
        with (
            pipeline.train_batches(
                this.dataset,
                this.options,
                self.start,
                this.total,
                self.config.batch_size,
                self.config.seed,
                *share,
            ) as batches,
            ahead.on_devices(batches, this.devices.put) as ready,
        ):
            for step in range(self.start, this.total):
                with self.reporter.waiting():
                    batch, notes = next(ready)
                this.bad_images.add(notes)
                compiled = compiled or self._compile(batch)
                with self._profiled(step):
                    this.packed, metrics = compiled(this.packed, batch)
                self.pending.append(metrics)
                self.reporter.tick()
                evaluation = self._after(step + 1)
        return evaluation

    def _after(self, done: int) -> Evaluation | None:
        """Logs, evaluates, saves and stops, each if it is time."""
        config, last, evaluation = self.config, done == self.job.total, None
        stopping = self.stop()
        if done % config.log_every == 0 or last:
            self._log(done)
        if (done % self.eval_steps == 0 or last) and not stopping:
            self._check(done)
            try:
                evaluation = self._evaluate(done)
            except Interrupted:
                stopping = True
        if done % config.checkpoint_every == 0 or last or stopping or evaluation:
            self._check(done)  # no checkpoint of a state that is not finite
            with self.reporter.away():
                top1 = evaluation.metrics["eval_top1"] if evaluation else None
                self.checkpoints.save(self.job.state, top1)
        if stopping:
            self.checkpoints.wait()
            raise Preempted(f"SIGTERM: saved at step {done}; the same command goes on from it")
        return evaluation

    def _compile(self, batch: ahead.Arrays) -> Any:
        with self.reporter.away():
            compiled = self.job.lower(batch).compile()
            # What tracing leaves behind lives as long as the run: not to be searched for garbage.
            gc.collect()
            gc.freeze()
        self.reporter.flops = dry_run.flops(compiled, self.config)
        return compiled

    def _log(self, done: int) -> None:
        config = self.config
        means = self._means(done)
        self.loss = means["loss"] if math.isfinite(means["loss"]) else self.loss
        self.reporter.train(done, {**means, "lr": float(self.job.rate(done - 1))})
        if time.monotonic() - self.drawn > _SECONDS_BETWEEN_CURVES:
            self._draw(config)

    def _evaluate(self, done: int) -> Evaluation:
        with self.reporter.away():
            evaluation = self.job.evaluate(self.job.state, self.stop)
            self.reporter.evaluation(done, evaluation.metrics)
            self._draw(self.config)
        return evaluation

    def _draw(self, config: Config) -> None:
        with self.reporter.away():
            if processes.is_main():
                plots.draw_curves(config.workdir, config.arch)
        self.drawn = time.monotonic()

    def _check(self, done: int) -> None:
        """Looks at the metrics since the last line of the log, which they stay for."""
        values = jax.device_get(self.pending)
        for step, metrics in enumerate(values, start=done - len(values) + 1):
            if math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]):
                continue
            if self.config.on_nan == "stop":
                raise TrainingError(
                    f"loss {float(metrics['loss'])} with a gradient of norm "
                    f"{float(metrics['grad_norm'])} at step {step}: not finite. Earlier "
                    "checkpoints are kept; try a lower --learning-rate in a new --workdir, or "
                    "--on-nan skip"
                )
        self.pending = values

    def _means(self, done: int) -> dict[str, float]:
        """Averages the metrics since the last line of the log, skipped steps left out."""
        self._check(done)
        values, self.pending = self.pending, []
        good = [m for m in values if all(math.isfinite(m[n]) for n in ("loss", "grad_norm"))]
        skipped = len(values) - len(good)
        self.skipped = self.skipped + skipped if skipped == len(values) else 0
        if self.skipped >= _SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"the last {self.skipped} steps before step {done} were skipped: their loss or "
                "gradient is not finite. Earlier checkpoints are kept; try a lower "
                "--learning-rate in a new --workdir"
            )
        names = values[0] if values else ()
        means = {n: float(np.mean([m[n] for m in good])) if good else math.nan for n in names}
        return {**means, "skipped_steps": skipped} if self.config.on_nan == "skip" else means

    @contextlib.contextmanager
    def _profiled(self, step: int) -> Iterator[None]:
        """Profiles the steps asked for, on process 0."""
        first, stop = self.profile
        if not (first <= step < stop and processes.is_main()):
            yield
            return
        if step == max(first, self.start):
            jax.profiler.start_trace(str(self.config.workdir / "profile"))
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if step == min(stop, self.job.total) - 1:
            jax.block_until_ready(self.job.packed)
            jax.profiler.stop_trace()
            self.reporter.say(f"profile of steps {first} to {stop}: {self.config.workdir}/profile")


def _claim(this: Job) -> None:
    config = this.config
    workdir.claim(config, this.total)
    if (
        config.eval_only
        and config.init_from is None
        and not workdir.has_checkpoints(config.workdir)
    ):
        raise UsageError(f"--eval-only: {config.workdir} holds no checkpoint")


def _finished(config: Config, start: int, total: int) -> Result | None:
    """The result of a run that has nothing left to do."""
    path = config.workdir / "result.json"
    if start < total or not path.exists():
        return None
    if processes.is_main():
        print(f"{config.workdir} is finished: step {start} of {total}. Nothing to do.")
    return json.loads(path.read_text())

"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from train import storage
from train.ending import sigterm
from train.engine.checkpoint import Checkpoints
from train.engine.evaluation import Evaluation, Interrupted
from train.engine.job import Job
from train.engine.phases import Phase
from train.engine.prefetch import Arrays, Stalled, prefetch
from train.engine.training_options import LoopOptions
from train.errors import TrainingError, UsageError
from train.hosts import processes
from train.hosts.preemption import Preemption
from train.report import plots
from train.report.reporter import Reporter, last_loss

# This number of skipped steps in a row ends the run.
_SKIPPED_IN_A_ROW = 50
_SECONDS_BETWEEN_CURVES = 60


def profile_range(options: LoopOptions) -> tuple[int, int] | None:
    """Returns the first step to profile and the step after the last, from `--profile-steps A:B`.

    None means that no step is profiled.

    Raises:
        UsageError: if the option is not of this form.
    """
    if options.profile_steps is None:
        return None
    start, colon, stop = options.profile_steps.partition(":")
    if not (colon and start.isdigit() and stop.isdigit() and int(start) < int(stop)):
        raise UsageError(f"--profile-steps {options.profile_steps}: must be A:B with A below B")
    return int(start), int(stop)


# Seconds that the process may take to end after it has saved, in case something hangs. The second
# value is for several processes, which wait for each other.
_SECONDS_TO_END, _SECONDS_TO_END_TOGETHER = 10.0, 120.0

# Seconds that the last checkpoint may take, in case a disk hangs.
_SECONDS_TO_SAVE = 600.0
_NOT_SAVED = (
    "SIGTERM: not saved, because the checkpoint was not written within "
    f"{_SECONDS_TO_SAVE:.0f} s; the same command resumes from the last one"
)


class Preempted(Exception):
    """SIGTERM was received, and nothing is left to save."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        seconds = _SECONDS_TO_END_TOGETHER if processes.several() else _SECONDS_TO_END
        sigterm.end_within(seconds, sigterm.PREEMPTED, message)


@dataclasses.dataclass
class Loop:
    """Trains a job from its current state to its last step.

    Holds the job, and what logs, saves and stops its training.
    """

    job: Job
    options: LoopOptions
    workdir: Path
    title: str  # title of `curves.svg`
    start: int  # step of the job's state
    skips: bool  # skip updates that are not finite; if False, they end the run
    checkpoints: Checkpoints
    reporter: Reporter
    stop: Preemption
    still_ours: Callable[[], None]  # raises an error if another run has taken over the workdir
    report: Callable[[int, Evaluation], None] | None = None  # called with each evaluation

    def __post_init__(self) -> None:
        self.eval_steps = max(round(self.options.eval_every * self.job.per_epoch), 1)
        self.pending: list[dict[str, jax.Array]] = []
        self.skipped = 0
        self.loss = last_loss(self.workdir)  # the last one that was logged
        self.profile = profile_range(self.options) or (-1, -1)
        self.drawn = time.monotonic()
        self.stop.count_steps(self._computed)

    def run(self) -> Evaluation:
        """Trains, and returns the evaluation of the last state.

        Raises:
            TrainingError: if training cannot continue: the loss is not finite, too many images are
                bad, a checkpoint cannot be written.
            Preempted: after SIGTERM.
            Interrupted: if SIGTERM comes during the evaluation of a state that is already saved.
        """
        evaluation = self._train() if self.start < self.job.total else None
        # None if the run was killed after its last checkpoint and before its result was written.
        return evaluation or self._evaluate(self.job.total)

    def _train(self) -> Evaluation | None:
        job, evaluation, phase = self.job, None, None
        compiled: Any = None
        with (
            job.batches(self.start, job.total) as batches,
            prefetch(batches, job.devices.put, self.stop.now) as ready,
        ):
            for step in range(self.start, job.total):
                try:
                    with self.reporter.waiting():
                        batch, notes = next(ready)
                except Stalled:
                    self._save_and_stop(step)
                job.bad_images.add(notes)
                if phase is not (phase := job.phase(step)):
                    compiled = self._begin(phase, step, batch)
                self.stop.save_first()
                with self._profiled(step):
                    job.state, metrics = compiled(job.state, batch)
                self.pending.append(metrics)
                self.reporter.tick()
                evaluation = self._after(step + 1)
        return evaluation

    def _after(self, done: int) -> Evaluation | None:
        """Logs, evaluates, saves or stops if one of these is due after `done` steps.

        Returns:
            The evaluation; None if there was none.
        """
        options, last, evaluation = self.options, done == self.job.total, None
        stopping = self.stop()
        if done % options.log_every == 0 or last:
            self._log(done)
        if (done % self.eval_steps == 0 or last) and not stopping:
            self._check(done)
            try:
                evaluation = self._evaluate(done)
            except Interrupted:
                stopping = True
        if stopping:
            self._save_and_stop(done)
        if done % options.checkpoint_every == 0 or last or evaluation:
            self._save(done, evaluation, finish=last)
        return evaluation

    def _save(
        self, done: int, evaluation: Evaluation | None = None, *, finish: bool = False
    ) -> None:
        self._check(done)  # a state that is not finite must not be saved
        self.still_ours()
        with self.reporter.away(), self.stop.busy():
            self.reporter.flush()  # a run that resumes here finds all lines up to here
            top1 = evaluation.metrics["eval_top1"] if evaluation else None
            self.checkpoints.save(self.job.state, top1, finish=finish)

    def _save_and_stop(self, done: int) -> NoReturn:
        sigterm.end_within(_SECONDS_TO_SAVE, sigterm.PREEMPTED, _NOT_SAVED)
        if done > self.start:
            self._save(done, finish=True)
        if done == 0:
            raise Preempted(sigterm.NOTHING_LOST)
        raise Preempted(f"SIGTERM: saved at step {done}; the same command resumes from it")

    def _begin(self, phase: Phase, step: int, batch: Arrays) -> Any:
        """Compiles and returns the training step of a phase.

        If `step` is the first of the phase, this also calls `Phase.begin` on the state, which may
        reset the optimiser state.
        """
        with self.reporter.away(once=True), self.stop.busy():
            if phase.note:
                self.reporter.say(phase.note)
            if step == phase.start:
                self.job.state = phase.begin(self.job.state)
            compiled = self.job.lower(batch, phase).compile()
            # Objects left by tracing live as long as the run. Exclude them from garbage collection.
            gc.collect()
            gc.freeze()
        self.reporter.flops = self.job.flops(compiled)
        return compiled

    def _log(self, done: int) -> None:
        means = self._means(done)
        self.loss = means["loss"] if math.isfinite(means["loss"]) else self.loss
        self.reporter.train(done, {**means, "lr": self.job.rate(done - 1)})
        if time.monotonic() - self.drawn > _SECONDS_BETWEEN_CURVES:
            self._draw()

    def _evaluate(self, done: int) -> Evaluation:
        with self.reporter.away():
            evaluation = self.job.evaluate(self.job.state, self.stop)
            self.reporter.evaluation(done, evaluation.metrics)
            self._draw()
            if self.report is not None:
                self.report(done, evaluation)
        return evaluation

    def _draw(self) -> None:
        with self.reporter.away():
            if processes.is_main():
                plots.draw_curves(self.workdir, self.title)
        self.drawn = time.monotonic()

    def _check(self, done: int) -> None:
        """Fetches the metrics of the steps since the last line of the log, and checks them.

        The metrics stay in `pending`, for the next line of the log.

        Args:
            done: number of steps done.

        Raises:
            TrainingError: if a loss or gradient is not finite, unless `skips` is set, by
                `--on-nan skip`.
        """
        values = jax.device_get(self.pending)
        for step, metrics in enumerate(values, start=done - len(values) + 1):
            if _is_finite(metrics) or self.skips:
                continue
            raise TrainingError(
                f"loss {float(metrics['loss'])} with a gradient of norm "
                f"{float(metrics['grad_norm'])} at step {step}: not finite. Earlier checkpoints "
                "are kept; try a lower --learning-rate in a new --workdir, or --on-nan skip"
            )
        self.pending = values

    def _computed(self) -> int:
        """Counts the steps that the devices have computed, but whose metrics are not fetched."""
        ready = [getattr(metrics["loss"], "is_ready", bool) for metrics in self.pending]
        return sum(is_ready() for is_ready in ready)  # fetched metrics count as not ready

    def _means(self, done: int) -> dict[str, float]:
        """Returns the mean metrics since the last line of the log, without skipped steps."""
        self._check(done)
        values, self.pending = self.pending, []
        good = [metrics for metrics in values if _is_finite(metrics)]
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
        return {**means, "skipped_steps": skipped} if self.skips else means

    @contextlib.contextmanager
    def _profiled(self, step: int) -> Iterator[None]:
        """Context manager: profiles the body if `--profile-steps` includes this step.

        Only process 0 profiles.
        """
        first, stop = self.profile
        if not (first <= step < stop and processes.is_main()):
            yield
            return
        if step == max(first, self.start):
            self.traces = storage.Mirror(self.workdir / "profile")
            jax.profiler.start_trace(str(self.traces.folder))
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if step == min(stop, self.job.total) - 1:
            jax.block_until_ready(self.job.state)
            jax.profiler.stop_trace()
            self.traces.close()
            self.reporter.say(f"profile of steps {first} to {stop}: {self.workdir}/profile")


def _is_finite(metrics: dict[str, Any]) -> bool:
    return math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])

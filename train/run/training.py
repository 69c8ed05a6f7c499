"""Executes a run: trains, resumes, or evaluates a checkpoint."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from inception_jax.crops import described
from train import storage
from train.config import fields
from train.data.datasets import Dataset
from train.engine import results, schedule
from train.engine.checkpoint import Checkpoints, newest_run
from train.engine.evaluation import Evaluation, Interrupted
from train.engine.job import Job
from train.engine.loop import Loop, Preempted
from train.engine.results import Result
from train.engine.schedule import peak_rate
from train.errors import UsageError
from train.hosts import processes
from train.hosts.preemption import Preemption
from train.report.reporter import Reporter
from train.run import command_line
from train.run.assembly import assemble
from train.run.command_line import Config
from train.run.run_report import run_report
from train.workdir import claim, identity, lock


def run(config: Config, dataset: Dataset) -> Result:
    """Trains to the last step, resuming from the newest checkpoint if there is one, and evaluates.

    With the option `eval_only`, this only evaluates the newest checkpoint or the initial weights.

    Returns:
        The result to print as the last line of standard output.

    Raises:
        UsageError: if the configuration is invalid, or the workdir belongs to another run.
        TrainingError: if training cannot continue, see `Loop.run`.
        Preempted: after SIGTERM.
    """
    stop = Preemption()
    _, total = schedule.length(config.schedule, config.batch.batch_size, len(dataset.train))
    own = identity.describe(config, dataset, total)
    processes.check_same(identity.shared(own))
    try:
        if config.run.eval_only:
            return _evaluate(config, dataset, own, stop)
        with _locked(config) as still_ours:
            return _run(config, dataset, own, stop, still_ours)
    except Interrupted:  # only during the evaluation of a state that is already saved
        raise Preempted("SIGTERM while evaluating: the same command resumes here") from None


def _run(
    config: Config,
    dataset: Dataset,
    own: identity.Identity,
    stop: Preemption,
    still_ours: Callable[[], None],
) -> Result:
    folder = config.run.workdir
    found = _compare(config, own)
    job = assemble(config, dataset)
    processes.main_first(lambda: claim.write(folder, found))
    keep_compiled(config)
    keep = config.loop.keep_checkpoints
    with Checkpoints(folder, job.devices.replicated, keep, run=found.own) as checkpoints:
        start = _restore(config, job, checkpoints)
        finished = _finished(folder, start, job.total)
        return finished or _train(config, job, start, checkpoints, stop, still_ours)


def _evaluate(config: Config, dataset: Dataset, own: identity.Identity, stop: Preemption) -> Result:
    """Evaluates the newest checkpoint, or the initial weights if there is none. Writes no files.

    Args:
        config: configuration of the run.
        dataset: data set of the run.
        own: description of the run, from `identity.describe`.
        stop: object that says whether SIGTERM was received.

    Returns:
        The result, as in `run`.
    """
    folder = config.run.workdir
    found = _compare(config, own)
    if not found.resumes and config.network.init_from is None:
        raise UsageError(f"--eval-only: {folder} holds no checkpoint")
    job = assemble(config, dataset)
    keep_compiled(config)
    start = 0
    if found.resumes:
        keep = config.loop.keep_checkpoints
        with Checkpoints(folder, job.devices.replicated, keep, read_only=True) as checkpoints:
            start = _restore(config, job, checkpoints)
    evaluation = job.evaluate(job.state, stop)
    return _evaluated(job, config.network.arch, start, evaluation)


@contextlib.contextmanager
def _locked(config: Config) -> Iterator[Callable[[], None]]:
    """Context manager: creates and locks the workdir, in process 0.

    Yields a function that raises an error if another run has taken over the workdir.
    """
    folder, held = config.run.workdir, contextlib.ExitStack()
    locks: list[lock.Lock] = []

    def take() -> None:
        claim.prepare(folder)
        locks.append(held.enter_context(lock.locked(folder)))

    def check() -> None:
        for own in locks:
            own.check()

    with held:
        processes.main_first(take)
        yield check


def _compare(config: Config, own: identity.Identity) -> claim.Claim:
    """Compares this run with the one in the workdir.

    Process 0 compares and prints notes. If it refuses to continue, all processes raise an error.

    Args:
        config: configuration of this run.
        own: description of this run, from `identity.describe`.

    Returns:
        A `Claim`, which says whether there are checkpoints from which this run resumes.
    """
    folder, evaluates = config.run.workdir, config.run.eval_only
    found = claim.Claim(own, claim.has_checkpoints(folder))

    def compare() -> None:
        nonlocal found
        found = claim.compare(folder, config, own, newest_run(folder), evaluates=evaluates)
        notes = list(found.notes)
        old = folder.parent / config.network.arch  # default workdir of earlier versions
        if not found.resumes and folder == _default(config) and claim.has_checkpoints(old):
            notes.append(
                f"note: {old} holds a run of an earlier version: --workdir {old} resumes it"
            )
        for note in notes:
            print(note, file=sys.stderr)

    processes.main_first(compare)
    return found


def _default(config: Config) -> Path:
    data, recipe = config.data, config.run.recipe
    return command_line.default_workdir(config.network.arch, data.dataset, data.data_dir, recipe)


def _restore(config: Config, job: Job, checkpoints: Checkpoints) -> int:
    """Restores the newest checkpoint into `job.state`; returns its step, or 0 if there is none."""
    restored = checkpoints.restore(job.state, start_over=config.loop.start_over)
    if restored is None:
        return 0
    job.state = restored
    return int(restored.step)


def _train(
    config: Config,
    job: Job,
    start: int,
    checkpoints: Checkpoints,
    stop: Preemption,
    still_ours: Callable[[], None],
) -> Result:
    folder, arch, size = config.run.workdir, config.network.arch, config.batch.batch_size
    settings = fields.as_json(config)
    classes = len(job.dataset.classes)
    reporter = Reporter(
        config.report, folder, start, job.total, job.per_epoch, size, settings, classes=classes
    )
    report = run_report(config, job) if config.report.report and processes.is_main() else None
    skips = config.step.on_nan == "skip"
    parts = (checkpoints, reporter, stop, still_ours, report)
    loop = Loop(job, config.loop, folder, arch, start, skips, *parts)
    reporter.say(_headline(config, job, start))
    if job.dataset.note:
        reporter.say(job.dataset.note)
    if not job.dataset.in_memory:
        reporter.say(f"evaluation images: {described(job.evaluate.info)}")
    try:
        evaluation = loop.run()
        job.bad_images.summarise()
        result = results.summary(job, arch, job.total, loop.loss, evaluation)
        if processes.is_main():
            results.write(job, folder, config.run.recipe, result, evaluation)
        return result
    finally:
        reporter.close()


def _evaluated(job: Job, arch: str, step: int, evaluation: Evaluation) -> Result:
    """Returns the result of an evaluation without training, and prints what was evaluated."""
    if processes.is_main():
        print(
            f"evaluated the checkpoint of step {step} on {len(job.dataset.test):,} test images: "
            f"{described(job.evaluate.info)}"
        )
        if job.dataset.note:
            print(job.dataset.note)
    job.bad_images.summarise()
    return results.summary(job, arch, step, None, evaluation)


def keep_compiled(config: Config) -> None:
    """Caches compiled programs in the workdir, unless the cache is off or has another folder."""
    if config.run.compile_cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = storage.absolute(config.run.workdir) / "xla_cache"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _finished(folder: Path, start: int, total: int) -> Result | None:
    """Returns the result of a finished run; None if the run is not finished or has no result.

    Args:
        folder: the workdir.
        start: step of the newest checkpoint; 0 if there is no checkpoint.
        total: last step of the run.
    """
    if start < total:
        return None
    result, damage = results.read(folder)
    if processes.is_main():
        if damage:
            print(damage, file=sys.stderr)
        if result:
            print(f"{folder} is finished: step {start} of {total}. Nothing to do.")
    return result


def _headline(config: Config, job: Job, start: int) -> str:
    """Returns a string of two lines: the options that differ from the recipe, and a summary.

    `start` is the step from which the run resumes; 0 for a new run.
    """
    network, base = config.network, config.schedule.lr_base_batch
    size = config.batch.batch_size
    trained = "parameters of the classifier" if network.freeze_backbone else "parameters"
    scaled = f" = {config.schedule.learning_rate:g} x {size} / {base}" if base else ""
    count = job.dataset.passed_over
    skipped = f", {count:,} file{'s' * (count > 1)} skipped" if count else ""
    return (
        f"recipe {config.run.recipe}{_differences(config, job)}; all options are in "
        f"{config.run.workdir / 'config.json'}\n"
        f"{network.arch} x{network.width_multiplier:g}, {job.num_params:,} {trained}, "
        f"on {config.data.dataset} at {config.input.image_size} px "
        f"({len(job.dataset.train):,} training images, {len(job.dataset.test):,} test images"
        f"{skipped}), "
        f"highest rate {peak_rate(config.schedule, size):.4g}{scaled}, "
        f"{jax.device_count()} {jax.devices()[0].platform} device(s) of {jax.process_count()} "
        "process(es): "
        + (f"resuming at step {start}" if start else "starting")
        + f", {job.total} steps, writing to {config.run.workdir}; the first step is compiled first"
    )


def _differences(config: Config, job: Job) -> str:
    """Returns a clause on the options that differ from the recipe.

    The clause has the values of the run and of the recipe, such as ", except epochs 3 instead of
    4". Options that other printed lines state are left out.
    """
    changes = command_line.changes(config, job.dataset)
    # Other printed lines state these.
    told = {"workdir", "data_dir", *config.run.scaled}
    left = {name: values for name, values in changes.items() if name not in told}
    if not left:
        return ", for few images" if config.run.scaled else ", as it is"
    words = [
        f"{name.replace('_', '-')} {_shown(own)}"
        + ("" if usual is None else f" instead of {_shown(usual)}")
        for name, (usual, own) in left.items()
    ]
    return f", except {', '.join(words)}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "not given" if value is None else str(value)

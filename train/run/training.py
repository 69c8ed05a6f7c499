"""A run from its options to its result: trains, resumes, or evaluates what is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax

from inception_jax.crops import described
from train.config import fields, workdir
from train.data.datasets import Dataset
from train.engine import results
from train.engine.checkpoint import Checkpoints
from train.engine.evaluation import Evaluation, Interrupted
from train.engine.job import Job
from train.engine.loop import Loop, Preempted
from train.engine.results import Result
from train.engine.schedule import peak_rate
from train.errors import UsageError
from train.hosts import processes
from train.report.reporter import Reporter
from train.run import command_line
from train.run.assembly import assemble
from train.run.command_line import Config
from train.run.summary import run_report


def run(config: Config, dataset: Dataset) -> Result:
    """Trains to the end, from the newest checkpoint if there is one, and evaluates.

    Returns:
        What the last line of standard output says.

    Raises:
        UsageError: if the configuration cannot be run.
        TrainingError: if training cannot continue, see `Loop.run`.
        Preempted: after SIGTERM.
    """
    stop = processes.Preemption()
    job = assemble(config, dataset)
    folder, arch = config.run.workdir, config.network.arch
    processes.main_first(lambda: _claim(config, job.total))
    if config.run.compile_cache:
        keep_compiled(folder)
    keep = config.loop.keep_checkpoints
    with Checkpoints(folder, job.devices.replicated, keep) as checkpoints:
        restored = checkpoints.restore(job.state)
        start = 0
        if restored is not None:
            job.state, start = restored, int(restored.step)
        try:
            if config.run.eval_only:
                return _evaluated(job, arch, start, job.evaluate(job.state, stop))
            return _finished(folder, start, job.total) or _train(
                config, job, start, checkpoints, stop
            )
        except Interrupted:  # only in an evaluation of a state that is saved already
            raise Preempted("SIGTERM while evaluating: the same command resumes here") from None


def _train(
    config: Config, job: Job, start: int, checkpoints: Checkpoints, stop: processes.Preemption
) -> Result:
    folder, arch, size = config.run.workdir, config.network.arch, config.batch.batch_size
    settings = fields.as_json(config)
    classes = len(job.dataset.classes)
    reporter = Reporter(
        config.report, folder, start, job.total, job.per_epoch, size, settings, classes=classes
    )
    report = run_report(config, job) if config.report.report and processes.is_main() else None
    skips = config.step.on_nan == "skip"
    loop = Loop(job, config.loop, folder, arch, start, skips, checkpoints, reporter, stop, report)
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
    """The result of an evaluation alone, which says what was evaluated."""
    if processes.is_main():
        print(
            f"evaluated the checkpoint of step {step} on {len(job.dataset.test):,} test images: "
            f"{described(job.evaluate.info)}"
        )
        if job.dataset.note:
            print(job.dataset.note)
    job.bad_images.summarise()
    return results.summary(job, arch, step, None, evaluation)


def keep_compiled(folder: Path) -> None:
    """Turns jax's cache of compiled programs on, if the environment does not say where it is."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute() / "xla_cache"))


def _claim(config: Config, total: int) -> None:
    folder = config.run.workdir
    workdir.claim(folder, config, total)
    if (
        config.run.eval_only
        and config.network.init_from is None
        and not workdir.has_checkpoints(folder)
    ):
        raise UsageError(f"--eval-only: {folder} holds no checkpoint")


def _finished(folder: Path, start: int, total: int) -> Result | None:
    """The result of a run that has nothing left to do."""
    path = folder / "result.json"
    if start < total or not path.exists():
        return None
    if processes.is_main():
        print(f"{folder} is finished: step {start} of {total}. Nothing to do.")
    return json.loads(path.read_text())


def _headline(config: Config, job: Job, start: int) -> str:
    """Describes a run: what differs from its recipe, then a sentence."""
    network, base = config.network, config.schedule.lr_base_batch
    size = config.batch.batch_size
    trained = "parameters of the classifier" if network.freeze_backbone else "parameters"
    scaled = f" = {config.schedule.learning_rate:g} x {size} / {base}" if base else ""
    count = job.dataset.passed_over
    passed = f", {count:,} files passed over" if count else ""
    return (
        f"recipe {config.run.recipe}{_differences(config, job)}; all options are in "
        f"{config.run.workdir / 'config.json'}\n"
        f"{network.arch} x{network.width_multiplier:g}, {job.num_params:,} {trained}, "
        f"on {config.data.dataset} at {config.input.image_size} px "
        f"({len(job.dataset.train):,} training images, {len(job.dataset.test):,} test images"
        f"{passed}), "
        f"highest rate {peak_rate(config.schedule, size):.4g}{scaled}, "
        f"{jax.device_count()} {jax.devices()[0].platform} device(s) of {jax.process_count()} "
        "process(es): "
        + (f"resuming at step {start}" if start else "starting")
        + f", {job.total} steps, writing to {config.run.workdir}; the first step is compiled first"
    )


def _differences(config: Config, job: Job) -> str:
    """The options that are not the recipe's, as they would be written, and its values."""
    changes = command_line.changes(config, job.dataset)
    # Lines around this one say these.
    told = {"workdir", "data_dir", *config.run.scaled}
    left = {name: values for name, values in changes.items() if name not in told}
    if not left:
        return ", as it is"
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

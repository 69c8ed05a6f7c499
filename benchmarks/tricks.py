"""Measures the tricks in the papers of the Inception family, such as label smoothing.

    python benchmarks/tricks.py [--only TRICK ...] [--seeds N] [--steps-scale X]

trains networks with and without each trick; each such variant is called an arm. All arms have the
same seeds and are compared seed by seed. The command writes a section with a figure for each trick
into docs/tricks.md. A trick of a small network or of Inception V1 takes two to eight minutes on one
core. Each finished run is stored in a file, so that the same command continues after an
interruption. `--steps-scale 10` trains ten times as long. `--data-dir` trains on a folder of images
instead of the embedded Fashion-MNIST.
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import tyro
from flax import nnx
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import page, trick_figures, trick_networks
from benchmarks.trick_list import TRICKS, Claim, Trick
from benchmarks.trick_runs import Arm, Program, Results, Trainer, all_of, key_of
from benchmarks.trick_statistics import Interval, Run, paired_interval, verdict
from inception_jax.analysis.macs import count_macs
from inception_jax.memory import keep_freed_memory
from train.data.datasets import Dataset
from train.data.open_dataset import open_dataset

CLAIM_HEAD = ["claim", "source", "measured", "first arm", "second arm", "difference, 95 %",
              "verdict"]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Train the arms of the tricks, and compare them."""

    only: tuple[str, ...] = ()
    """Names of the tricks to run; default: all tricks."""
    seeds: int = 5
    """Number of seeds, the same for each arm."""
    first_seed: int = 0
    """First seed; the seeds are consecutive numbers."""
    steps_scale: float = 1.0
    """Factor on the number of steps of every run."""
    data_dir: Path | None = None
    """Folder of images, DIR/train/CLASS/* and DIR/val/CLASS/*; default: the embedded images."""
    results: Path = page.ROOT / "runs" / "tricks.json"
    """File of the results of finished runs."""

    def steps_of(self, arm: Arm) -> int:
        """Returns the number of steps in a run of an arm."""
        return max(round(arm.steps * self.steps_scale), 1)

    @property
    def all_seeds(self) -> range:
        """Seeds of the runs of each arm."""
        return range(self.first_seed, self.first_seed + self.seeds)


def main(options: Options) -> None:
    """Trains the missing runs, and writes docs/tricks.md.

    The page has a section for each trick with complete runs, and a summary.
    """
    unknown = set(options.only) - TRICKS.keys()
    if unknown or options.seeds < 2:
        raise SystemExit(f"--only takes {', '.join(TRICKS)}; --seeds at least 2")
    dataset = _dataset(options)
    results = Results(options.results)
    chosen = {key: TRICKS[key] for key in options.only or TRICKS}
    arms = [arm for trick in chosen.values() for arm in trick.arms]
    missing = {  # a set, because tricks may share an arm
        key_of(arm, dataset.name, options.steps_of(arm), seed)
        for arm in arms
        for seed in options.all_seeds
        if results.get(arm, dataset.name, options.steps_of(arm), seed) is None
    }
    programs: dict[str, Program] = {}
    with tqdm(total=len(missing), unit="run") as progress:
        for key, trick in chosen.items():
            for arm in trick.arms:
                _train(arm, dataset, options, results, programs, progress)
            _publish(key, trick, dataset, options, results)
    write_summary(dataset, options, results)


def _dataset(options: Options) -> Dataset:
    if options.data_dir is None:
        return open_dataset("fashion_mnist")
    dataset = open_dataset("folder", options.data_dir)
    return dataclasses.replace(dataset, name=f"folder {options.data_dir.name}")


def _train(
    arm: Arm,
    dataset: Dataset,
    options: Options,
    results: Results,
    programs: dict[str, Program],
    progress: tqdm,
) -> None:
    """Trains an arm with every seed that has no run in `results`, and adds the runs to it.

    Args:
        arm: arm to train: a network and the way to train it.
        dataset: data set to train and evaluate on.
        options: options with the seeds and the number of steps.
        results: results of finished runs.
        programs: compiled programs of earlier arms, see `Trainer`.
        progress: progress bar, which advances by one for each run.
    """
    steps = options.steps_of(arm)
    trainer = None
    for seed in options.all_seeds:
        if results.get(arm, dataset.name, steps, seed) is not None:
            continue
        trainer = trainer or Trainer(arm, dataset, steps, programs)
        progress.set_postfix_str(f"{arm.name}, seed {seed}")
        results.add(arm, dataset.name, steps, seed, trainer.run(seed))
        progress.update()


def _publish(key: str, trick: Trick, dataset: Dataset, options: Options, results: Results) -> None:
    runs = _runs(trick, dataset, options, results)
    if runs is None:
        return
    picture = f"tricks.{key}.png"
    trick_figures.draw(
        trick, runs, [differences(claim, runs) for claim in trick.claims], options.docs / picture
    )
    parts = [
        f"## {trick.title}",
        page.paragraph(trick.setting),
        _arms_table(trick, runs, dataset, options),
        page.table(CLAIM_HEAD, [claim_row(claim, runs) for claim in trick.claims]),
        f"![{trick.title}: test accuracy over the steps, and the differences]({picture})",
    ]
    text = "\n\n".join(parts)
    print(f"\n{text}", flush=True)
    page.write_section(options.docs / "tricks.md", key, text)


def _runs(
    trick: Trick, dataset: Dataset, options: Options, results: Results
) -> dict[str, list[Run]] | None:
    """Returns a trick's runs by name of the arm, one for each seed; None if a run is missing."""
    found = {
        arm.name: all_of(results, arm, dataset.name, options.steps_of(arm), options.all_seeds)
        for arm in trick.arms
    }
    complete = {name: runs for name, runs in found.items() if runs is not None}
    return complete if len(complete) == len(found) else None


def differences(claim: Claim, runs: Mapping[str, Sequence[Run]]) -> list[float]:
    """Returns the difference between the two arms of a claim, for each seed.

    An arm is one way to train one network. The difference is the measure of the first arm,
    `claim.arm`, minus that of the second arm, `claim.other`.

    Args:
        claim: claim about two arms.
        runs: runs by name of the arm; each arm has one run for each seed, in the same order.
    """
    other = claim.other_measure or claim.measure
    pairs = zip(runs[claim.arm], runs[claim.other], strict=True)
    return [claim.measure.of(one) - other.of(two) for one, two in pairs]


def judged(claim: Claim, runs: Mapping[str, Sequence[Run]]) -> tuple[Interval, str]:
    """Returns the confidence interval of a claim's differences, and the verdict on the claim.

    Args:
        claim: claim about two arms.
        runs: runs by name of the arm; each arm has one run for each seed, in the same order.
    """
    interval = paired_interval(differences(claim, runs))
    return interval, verdict(interval, claim.direction, claim.margin)


def claim_row(claim: Claim, runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Returns the row of a claim in the table of claims, as a list of cells.

    Args:
        claim: claim about two arms.
        runs: runs by name of the arm; each arm has one run for each seed, in the same order.
    """
    interval, word = judged(claim, runs)
    other, digits = claim.other_measure or claim.measure, claim.measure.digits
    means = [
        _number(sum(map(measure.of, runs[arm])) / len(runs[arm]), digits)
        for measure, arm in ((claim.measure, claim.arm), (other, claim.other))
    ]
    second = claim.other if claim.other != claim.arm else other.name
    mean, low, high = (_number(value, digits, sign="+") for value in interval)
    expected = {
        "higher": "; claimed: higher",
        "lower": "; claimed: lower",
        "equal": f"; claimed: within ±{claim.margin:g}",
        "open": "",
    }
    measured = f"{claim.measure.name}, {claim.measure.unit}{expected[claim.direction]}"
    return [
        claim.text, claim.source, measured, f"{claim.arm}: {means[0]}", f"{second}: {means[1]}",
        f"{mean} ({low} to {high})", f"**{word}**",
    ]  # fmt: skip


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}" if math.isfinite(value) else "not finite"


def _arms_table(
    trick: Trick, runs: Mapping[str, Sequence[Run]], dataset: Dataset, options: Options
) -> str:
    rows = []
    for arm in trick.arms:
        params, macs = _cost(arm, dataset)
        own = runs[arm.name]
        top1 = [100 * run.curve[-1][1] for run in own]
        ended = sum(not math.isfinite(run.losses[-1]) for run in own)
        rows.append(
            [arm.name, options.steps_of(arm), f"{params:,}", f"{macs / 1e6:.2f}",
             f"{sum(top1) / len(top1):.1f} ({min(top1):.1f} to {max(top1):.1f})",
             f"{ended} of {len(own)}", f"{statistics.median(run.seconds for run in own):.0f} s"]
        )  # fmt: skip
    head = ["arm", "steps", "parameters", "MACs, M", "top-1, % (lowest to highest)", "not finite",
            "CPU time a run"]  # fmt: skip
    return page.table(head, rows)


def _cost(arm: Arm, dataset: Dataset) -> tuple[int, int]:
    """Returns the numbers of parameters and of multiply-accumulates of an arm's network.

    An auxiliary classifier is counted in the parameters, but not in the multiply-accumulates.
    """
    options, classes = dict(arm.options), len(dataset.classes)
    model = trick_networks.build(arm.network, options, arm.change, classes, dataset.channels, 0)
    size = arm.training["image_size"]
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    return params, count_macs(model.eval_view(), (size, size), dataset.channels)


def write_summary(dataset: Dataset, options: Options, results: Results) -> None:
    """Writes the summary: the command, and the verdicts on all tricks with complete runs."""
    rows, absent = [], []
    for key, trick in TRICKS.items():
        runs = _runs(trick, dataset, options, results)
        if runs is None:
            absent.append(f"`{key}`")
            continue
        rows += [
            [trick.title, claim.text, claim.source, judged(claim, runs)[1]]
            for claim in trick.claims
            if claim.direction != "open"
        ]
    seeds = options.all_seeds
    flags = os.environ.get("XLA_FLAGS")
    setting = f"""{dataset.name}; seeds {seeds[0]} to {seeds[-1]}; jax {jax.__version__} on
    {jax.devices()[0].platform}{f", with XLA_FLAGS={flags}" if flags else ""}."""
    verdicts = [f"{word}: {count}" for word, count in _counts(rows)]
    page.publish(
        options.docs / "tricks.md",
        "summary",
        setting,
        page.table(["trick", "claim", "source", "verdict"], rows),
        f"{', '.join(verdicts)}; of {len(rows)} claims.",
        f"Not run: {', '.join(absent)}." if absent else "",
    )


def _counts(rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, int]]:
    for word in ("seen", "not seen at this scale", "reversed"):
        yield word, sum(row[-1] == word for row in rows)


if __name__ == "__main__":
    keep_freed_memory()
    main(tyro.cli(Options, description=__doc__))

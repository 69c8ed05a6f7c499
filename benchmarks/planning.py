"""Estimates the duration of a training run on a TPU pod with an analytical model.

    python benchmarks/planning.py [--step-scale 1.0] [--host-cores 56] ...

prints a table and writes it into docs/pods.md. Nothing is measured. Every assumption is an option,
and the help of each option names its source. The defaults are for Inception V3 with the recipe
`inception_v3_tpu` on TPU v5e.

    python benchmarks/planning.py --docs "" --preemptions-per-hour 1

prints the table and writes no page.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import page

CHIPS = (16, 32, 64, 128, 256, 512, 1024)


@dataclasses.dataclass(frozen=True)
class Options:
    """Estimate the duration of a training run on 16 to 1,024 chips."""

    docs: str = str(page.ROOT / "docs")
    """Folder of the page to write; empty: no page is written."""
    chips: tuple[int, ...] = CHIPS
    """Numbers of chips."""

    # The run
    train_images: int = 1_281_167
    """Images in an epoch: ImageNet."""
    eval_images: int = 50_000
    """Images in an evaluation: ImageNet."""
    epochs: float = 170.0
    """Epochs of the recipe."""
    epochs_per_evaluation: float = 1.0
    """Epochs between two evaluations."""
    images_per_chip: int = 128
    """Largest number of images per chip in a step: enough to fill the chip's lanes."""
    largest_batch: int = 16_384
    """Largest batch that still trains well. An assumption: the recipe was written for 1,024."""

    # A step as estimated by the compiler: two rooflines from docs/pods.md, and the factor between
    # roofline and cycles
    images_small: int = 32
    """Images per chip in the first compiled step."""
    ms_small: float = 27.3
    """Milliseconds of the first compiled step: docs/pods.md, "Every network"."""
    images_large: int = 128
    """Images per chip in the second compiled step."""
    ms_large: float = 59.4
    """Milliseconds of the second compiled step: docs/pods.md, "Inception V3 on more chips"."""
    step_scale: float = 1.96
    """Real time of a step divided by its roofline: 116.2 ms by the compiler's cycles / 59.4 ms."""
    eval_share: float = 0.33
    """Time per image in evaluation divided by the time in training. Evaluation has no backward
    pass."""

    # The exchange
    exchange_mb: float = 108.9
    """Megabytes in the all-reduces of a step: docs/pods.md, "Inception V3 on more chips"."""
    messages: int = 189
    """Number of all-reduces in a step. It is 1 if `--bn-group` is the number of images per chip."""
    link_gb_s: float = 45.0
    """Gigabytes per second of a link between chips, one way: 1,600 Gbit/s per v5e chip over four
    links, minus 10 %."""
    message_us: float = 10.0
    """Microseconds of an empty all-reduce within a slice of 16 chips."""
    hop_us: float = 0.3
    """Additional microseconds of an all-reduce for each chip by which the side of a slice exceeds
    four."""
    slice_chips: int = 256
    """Chips in the largest slice: v5e."""
    network_gb_s: float = 12.5
    """Gigabytes per second of a host's network card, between slices: 100 Gbit/s."""
    network_message_us: float = 150.0
    """Microseconds of an empty all-reduce between slices."""

    # Input
    chips_per_host: int = 4
    """Chips per host."""
    host_cores: int = 56
    """Number of cores per host that decode: half of the 112 virtual cores of a v5e machine with
    four chips."""
    images_per_core: float = 428.0
    """Images per second that a core decodes and crops: docs/input_pipeline.md, 500x375."""
    pipeline_share: float = 0.5
    """Share of `--images-per-core` that remains if all cores work and hand over their results."""
    image_kb: float = 110.0
    """Kilobytes of a stored image: ImageNet's mean."""
    read_mb_s: float = 1000.0
    """Megabytes per second that a host reads from the bucket or disk."""

    # Checkpoints and interruptions
    state_mb: float = 370.0
    """Megabytes of a checkpoint: parameters, averages and moments of Inception V3."""
    save_mb_s: float = 200.0
    """Megabytes per second written to the bucket, in the background."""
    save_stall_s: float = 1.0
    """Seconds that training waits for a checkpoint: the copy from the chips, and checksums."""
    minutes_between_checkpoints: float = 10.0
    """Minutes between two checkpoints."""
    start_s: float = 180.0
    """Seconds from the start of the processes to the first step: imports, restoring, compiling."""
    preemptions_per_hour: float = 0.1
    """Preemptions per hour of training on 256 chips. For other numbers of chips, the model scales
    this rate in proportion."""
    hard_share: float = 0.2
    """Share of preemptions that leave no time to save."""
    replacement_s: float = 600.0
    """Seconds after a preemption until chips are available again."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimated duration of a training run on a number of chips, and of its parts.

    Attributes:
        chips: number of chips.
        batch: number of images in a step.
        steps: number of steps of the run.
        compute_ms: milliseconds in which the chips compute a step.
        exchange_ms: milliseconds of communication in a step, which does not overlap with computing.
        input_ms: milliseconds in which the hosts prepare a batch.
        step_ms: `compute_ms + exchange_ms`, or `input_ms` if that is longer.
        train_h: hours of all steps.
        eval_h: hours of all evaluations.
        save_h: hours that training waits for checkpoints.
        lost_h: hours lost to starts, to waiting for chips, and to steps that are computed twice.
        limit: name of the slowest part of a step, or "interruptions" if interruptions take more
            than half of the run.
    """

    chips: int
    batch: int
    steps: int
    compute_ms: float
    exchange_ms: float
    input_ms: float
    step_ms: float
    train_h: float
    eval_h: float
    save_h: float
    lost_h: float
    limit: str

    @property
    def total_h(self) -> float:
        """Hours of the whole run."""
        return self.train_h + self.eval_h + self.save_h + self.lost_h


def compute_ms(options: Options, images: float) -> float:
    """Returns the milliseconds in which the chips compute a step.

    The time is linear in the number of images per chip. The line goes through the two compiled
    steps in the options and is scaled by `step_scale`.

    Args:
        options: assumptions of the model.
        images: number of images per chip.
    """
    slope = (options.ms_large - options.ms_small) / (options.images_large - options.images_small)
    return options.step_scale * (options.ms_small + slope * (images - options.images_small))


def exchange_ms(options: Options, chips: int) -> float:
    """Returns the milliseconds of a step's all-reduces, within and between slices."""
    slices = math.ceil(chips / options.slice_chips)
    inside = chips // slices
    # A ring sends every number about twice. On a torus, this uses both directions of two axes.
    sent = 2 * (inside - 1) / inside * options.exchange_mb
    hops = max(math.sqrt(inside) - 4, 0)
    milliseconds = sent / (2 * options.link_gb_s)
    milliseconds += options.messages * (options.message_us + options.hop_us * hops) / 1e3
    if slices > 1:
        # Each host exchanges its share of the numbers with the matching hosts of other slices.
        share = options.exchange_mb / (inside / options.chips_per_host)
        milliseconds += 2 * (slices - 1) / slices * share / options.network_gb_s
        milliseconds += options.messages * options.network_message_us / 1e3
    return milliseconds


def images_per_host(options: Options) -> tuple[float, str]:
    """Computes how fast a host can deliver images.

    Returns:
        Two values: images per second, and what limits them, "decoding" or "reading".
    """
    decoded = options.host_cores * options.images_per_core * options.pipeline_share
    read = options.read_mb_s * 1e3 / options.image_kb
    return min((decoded, "decoding"), (read, "reading"))


def estimate(options: Options, chips: int) -> Estimate:
    """Estimates the duration of the training run on a number of chips.

    Args:
        options: assumptions of the model; nothing is measured.
        chips: number of chips.

    Returns:
        An `Estimate` with the duration of the whole run and of its parts.
    """
    images = min(options.images_per_chip, options.largest_batch / chips)
    batch = round(images * chips)
    steps = math.ceil(options.epochs * options.train_images / batch)
    compute, exchange = compute_ms(options, images), exchange_ms(options, chips)
    hosts = math.ceil(chips / options.chips_per_host)
    ready, what = images_per_host(options)
    waited = batch / hosts / ready * 1e3
    step = max(compute + exchange, waited)
    train = steps * step / 3.6e6

    evaluations = math.ceil(options.epochs / options.epochs_per_evaluation)
    rate = min(batch / (options.eval_share * compute) * 1e3, hosts * ready)
    evaluated = evaluations * options.eval_images / rate / 3600

    # Training waits if a checkpoint takes longer than the time to the next one.
    between = options.minutes_between_checkpoints * 60
    late = max(options.state_mb / options.save_mb_s - between, 0)
    saved = (train * 3600 / between) * (options.save_stall_s + late) / 3600

    events = options.preemptions_per_hour * chips / 256
    each = options.replacement_s + options.start_s + options.hard_share * between / 2
    # While chips are missing, there are no further preemptions.
    useful = train + evaluated + saved
    interrupted = useful * events * each / 3600
    lost = interrupted + options.start_s / 3600

    parts = {"computing": compute, "exchange": exchange}
    limit = max(parts, key=parts.__getitem__) if compute + exchange >= waited else what
    if interrupted > useful:
        limit = "interruptions"
    return Estimate(chips, batch, steps, compute, exchange, waited, step, train, evaluated, saved,
                    lost, limit)  # fmt: skip


def turning_points(options: Options) -> list[str]:
    """Returns paragraphs on when input, exchange, checkpoints or preemptions limit a run.

    The numbers are those of the largest slice.
    """
    chips = options.slice_chips
    found = estimate(options, chips)
    images = found.batch / chips
    needed = images * options.chips_per_host / (found.compute_ms + found.exchange_ms) * 1e3
    ready, what = images_per_host(options)
    cores = needed / (options.images_per_core * options.pipeline_share)
    event_s = options.replacement_s + options.start_s
    event_s += options.hard_share * options.minutes_between_checkpoints * 30
    even = next((n for n in _sizes() if (e := estimate(options, n)).exchange_ms > e.compute_ms), 0)
    return [
        f"**Input**: on {chips} chips a host must deliver {needed:,.0f} images/s, and can deliver "
        f"{ready:,.0f} ({what}). Input is the limit below {cores:.0f} cores per host, or below "
        f"{needed * options.image_kb / 1e3:,.0f} MB/s.",
        f"**Exchange** takes {found.exchange_ms:.1f} of {found.step_ms:.1f} ms on {chips} chips, "
        f"of which {options.messages * options.message_us / 1e3:.1f} ms are the constant cost of "
        f"{options.messages} messages. "
        + (f"It exceeds computing from {even:,} chips on." if even else
           "It does not exceed computing up to 65,536 chips."),
        f"**Checkpoints** are written in the background. They delay training only if one takes "
        f"longer than {options.minutes_between_checkpoints:g} minutes, below "
        f"{options.state_mb / options.minutes_between_checkpoints / 60:.2f} MB/s.",
        f"**Preemptions** cost {event_s / 60:.1f} minutes each. Half of the time is lost at "
        f"{3600 / event_s:.1f} preemptions of the whole run per hour of training.",
    ]  # fmt: skip


def _sizes() -> list[int]:
    return [2**power for power in range(2, 17)]


def table(rows: list[Estimate]) -> str:
    """Returns the estimates as a Markdown table, with a row for each number of chips."""
    head = ["chips", "batch", "steps", "computing, ms", "exchange, ms", "input, ms", "step, ms",
            "images/s", "training, h", "evaluation, h", "checkpoints, h", "lost, h", "total, h",
            "limit"]  # fmt: skip
    lines = [
        [f"{r.chips:,}", f"{r.batch:,}", f"{r.steps:,}", f"{r.compute_ms:.1f}",
         f"{r.exchange_ms:.1f}", f"{r.input_ms:.1f}", f"{r.step_ms:.1f}",
         f"{r.batch / r.step_ms * 1e3:,.0f}", f"{r.train_h:.2f}", f"{r.eval_h:.2f}",
         f"{r.save_h:.2f}", f"{r.lost_h:.2f}", f"{r.total_h:.2f}", r.limit]
        for r in rows
    ]  # fmt: skip
    return page.table(head, lines)


def assumptions(options: Options) -> str:
    """Returns the options on which the estimated durations depend, with their values, as text."""
    values = {k: v for k, v in vars(options).items() if k not in ("docs", "chips")}
    return "; ".join(f"`--{name.replace('_', '-')} {value:.10g}`" for name, value in values.items())


def main(options: Options) -> None:
    """Estimates the duration of the run, prints the table and writes it into docs/pods.md."""
    for name, value in vars(options).items():
        if isinstance(value, int | float) and (value < 0 or not math.isfinite(value)):
            raise SystemExit(f"--{name.replace('_', '-')} {value}: must be 0 or more")
    if not options.chips or min(options.chips) < 1:
        raise SystemExit("--chips: numbers of 1 or more")
    rows = [estimate(options, chips) for chips in options.chips]
    points = "\n".join(f"- {line}" for line in turning_points(options))
    target = Path(options.docs) / "pods.md" if options.docs else None
    setting = "A model; nothing was measured."
    page.publish(target, "planning", setting, table(rows), points,
                 page.paragraph(f"The options are {assumptions(options)}."))  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

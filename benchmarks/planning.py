"""An arithmetic model of a whole training run on a pod: a table of docs/pods.md.

    python benchmarks/planning.py [--step-scale 1.0] [--host-cores 56] ...

Nothing is measured here. Every assumption is an option, so another number is one command away:
`python benchmarks/planning.py --docs "" --preemptions-per-hour 1` prints and writes nothing. The
defaults are Inception V3 with the recipe `inception_v3_tpu` on TPU v5e; where they are from is said
beside each.
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
    """Estimate a training run on 16 to 1,024 chips."""

    docs: str = str(page.ROOT / "docs")
    """Folder of the pages whose sections are written; empty: none."""
    chips: tuple[int, ...] = CHIPS
    """Numbers of chips."""

    # The run
    train_images: int = 1_281_167
    """Images of an epoch: ImageNet."""
    eval_images: int = 50_000
    """Images of an evaluation: ImageNet."""
    epochs: float = 170.0
    """Epochs: the recipe's."""
    epochs_per_evaluation: float = 1.0
    """Epochs between two evaluations."""
    images_per_chip: int = 128
    """Images a chip computes at once, at most: they fill its lanes."""
    largest_batch: int = 16_384
    """Largest batch that still trains well: an assumption, the recipe was written for 1,024."""

    # A step, by the compiler: two rooflines of this page, and how much slower cycles are
    images_small: int = 32
    """Images a chip of the first compiled step."""
    ms_small: float = 27.3
    """Its milliseconds: table "Every network"."""
    images_large: int = 128
    """Images a chip of the second compiled step."""
    ms_large: float = 59.4
    """Its milliseconds: table "Inception V3 on more chips"."""
    step_scale: float = 1.96
    """Real step over roofline: 116.2 ms by the compiler's cycles over 59.4."""
    eval_share: float = 0.33
    """Time of an image in evaluation over that in training: no backward pass."""

    # The exchange
    exchange_mb: float = 108.9
    """Megabytes that the all-reduces of a step sum: table "Inception V3 on more chips"."""
    messages: int = 189
    """All-reduces of a step; 1 with --bn-group of a chip's images."""
    link_gb_s: float = 45.0
    """Gigabytes a second of a link between chips, one way: 1,600 Gbit/s a v5e chip over four links,
    less a tenth."""
    message_us: float = 10.0
    """Microseconds of an all-reduce in a slice that carries nothing, on 16 chips."""
    hop_us: float = 0.3
    """Microseconds more for each chip further to the middle of the torus."""
    slice_chips: int = 256
    """Chips of the largest slice: v5e."""
    network_gb_s: float = 12.5
    """Gigabytes a second of a host's network card, between slices: 100 Gbit/s."""
    network_message_us: float = 150.0
    """Microseconds of an all-reduce between slices that carries nothing."""

    # Input
    chips_per_host: int = 4
    """Chips of a host."""
    host_cores: int = 56
    """Cores of a host that decode: half of the 112 virtual ones of a v5e machine of four chips."""
    images_per_core: float = 428.0
    """Images a second that a core decodes and crops: docs/input_pipeline.md, 500x375."""
    pipeline_share: float = 0.5
    """Share of that which is left when every core works and results are handed over."""
    image_kb: float = 110.0
    """Kilobytes of a stored image: ImageNet's mean."""
    read_mb_s: float = 1000.0
    """Megabytes a second that a host reads from the bucket or disk."""

    # Checkpoints and interruptions
    state_mb: float = 370.0
    """Megabytes of a checkpoint: parameters, averages and moments of Inception V3."""
    save_mb_s: float = 200.0
    """Megabytes a second written to the bucket, in the background."""
    save_stall_s: float = 1.0
    """Seconds that training waits for a checkpoint: the copy from the chips, and checksums."""
    minutes_between_checkpoints: float = 10.0
    """Minutes between two checkpoints."""
    start_s: float = 180.0
    """Seconds from the start of the processes to the first step: imports, restoring, compiling."""
    preemptions_per_hour: float = 0.1
    """Preemptions of 256 chips in an hour of training; they grow with the number of chips."""
    hard_share: float = 0.2
    """Share of them that leaves no time to save."""
    replacement_s: float = 600.0
    """Seconds until the chips are there again."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the model says of a number of chips.

    Attributes:
        chips: their number.
        batch: images of a step.
        steps: of the run.
        compute_ms: of a step, on the chips.
        exchange_ms: of a step, between them; none of it overlaps.
        input_ms: in which the hosts have the next batch ready.
        step_ms: the longer of computing with exchange, and input.
        train_h: hours of all steps.
        eval_h: hours of all evaluations.
        save_h: hours that training waits for checkpoints.
        lost_h: hours of starts, of waiting for chips, and of steps computed twice.
        limit: the part that a step waits for most; "interruptions" if they take more than half of
            the run.
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
        """Hours of the run."""
        return self.train_h + self.eval_h + self.save_h + self.lost_h


def compute_ms(options: Options, images: float) -> float:
    """Milliseconds of a step with some images a chip: a line through the two compiled steps."""
    slope = (options.ms_large - options.ms_small) / (options.images_large - options.images_small)
    return options.step_scale * (options.ms_small + slope * (images - options.images_small))


def exchange_ms(options: Options, chips: int) -> float:
    """Milliseconds of a step's all-reduces: in a slice over the torus, then between slices."""
    slices = math.ceil(chips / options.slice_chips)
    inside = chips // slices
    # A ring sends every number twice, less what stays at home; on a torus each way of two axes.
    sent = 2 * (inside - 1) / inside * options.exchange_mb
    hops = max(math.sqrt(inside) - 4, 0)
    milliseconds = sent / (2 * options.link_gb_s)
    milliseconds += options.messages * (options.message_us + options.hop_us * hops) / 1e3
    if slices > 1:
        # Each host exchanges its share of the numbers with the same host of the other slices.
        share = options.exchange_mb / (inside / options.chips_per_host)
        milliseconds += 2 * (slices - 1) / slices * share / options.network_gb_s
        milliseconds += options.messages * options.network_message_us / 1e3
    return milliseconds


def images_per_host(options: Options) -> tuple[float, str]:
    """Images a second that a host has ready, and what keeps it from more."""
    decoded = options.host_cores * options.images_per_core * options.pipeline_share
    read = options.read_mb_s * 1e3 / options.image_kb
    return min((decoded, "decoding"), (read, "reading"))


def estimate(options: Options, chips: int) -> Estimate:
    """Returns what the model says of a number of chips."""
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

    # A checkpoint that takes longer than the time to the next one is waited for.
    between = options.minutes_between_checkpoints * 60
    late = max(options.state_mb / options.save_mb_s - between, 0)
    saved = (train * 3600 / between) * (options.save_stall_s + late) / 3600

    events = options.preemptions_per_hour * chips / 256
    each = options.replacement_s + options.start_s + options.hard_share * between / 2
    # While chips are missing, none are taken away.
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
    """At what numbers each part becomes the limit, on the chips that a slice has at most."""
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
        f"**Input**: on {chips} chips a host has to deliver {needed:,.0f} images/s and can deliver "
        f"{ready:,.0f} ({what}). Input is the limit below {cores:.0f} cores a host, or below "
        f"{needed * options.image_kb / 1e3:,.0f} MB/s.",
        f"**Exchange**: it takes {found.exchange_ms:.1f} of {found.step_ms:.1f} ms on {chips} "
        f"chips, {options.messages * options.message_us / 1e3:.1f} of them the start of "
        f"{options.messages} messages. "
        + (f"It exceeds computing from {even:,} chips on." if even else
           "It does not exceed computing up to 65,536 chips."),
        f"**Checkpoints**: written in the background, they hold training up when one takes longer "
        f"than {options.minutes_between_checkpoints:g} minutes: below "
        f"{options.state_mb / options.minutes_between_checkpoints / 60:.2f} MB/s.",
        f"**Preemptions**: each costs {event_s / 60:.1f} minutes. Half of the time is lost at "
        f"{3600 / event_s:.1f} in an hour of training, of all chips together.",
    ]  # fmt: skip


def _sizes() -> list[int]:
    return [2**power for power in range(2, 17)]


def table(rows: list[Estimate]) -> str:
    """A row for every number of chips."""
    head = ["chips", "batch", "steps", "computing, ms", "exchange, ms", "input, ms", "step, ms",
            "images/s", "training, h", "evaluation, h", "checkpoints, h", "lost, h", "in all, h",
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
    """Every number that the table rests on, by the name of its option."""
    values = {k: v for k, v in vars(options).items() if k not in ("docs", "chips")}
    return "; ".join(f"`--{name.replace('_', '-')} {value:.10g}`" for name, value in values.items())


def main(options: Options) -> None:
    """Prints the table, and writes it."""
    for name, value in vars(options).items():
        if isinstance(value, int | float) and (value < 0 or not math.isfinite(value)):
            raise SystemExit(f"--{name.replace('_', '-')} {value}: must be 0 or more")
    if not options.chips or min(options.chips) < 1:
        raise SystemExit("--chips: numbers of 1 or more")
    rows = [estimate(options, chips) for chips in options.chips]
    points = "\n".join(f"- {line}" for line in turning_points(options))
    target = Path(options.docs) / "pods.md" if options.docs else None
    setting = "A model, nothing of it measured."
    page.publish(target, "planning", setting, table(rows), points,
                 page.paragraph(f"It assumes {assumptions(options)}."))  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

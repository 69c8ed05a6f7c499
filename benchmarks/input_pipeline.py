"""Measures how many images per second one core decodes, crops, resizes and mirrors for training.

    python benchmarks/input_pipeline.py

prints a table and writes it into docs/input_pipeline.md. Every repeat times all methods in turn on
the same synthetic photos; the table has the slowest, middle and fastest repeat. Times are CPU times
of one process, which other work on the machine hardly changes. Only the row of the whole pipeline,
which has worker processes, is measured in wall time.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tyro
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import page
from train.data import decoding
from train.data.augment import inception_box, train_view
from train.data.open_dataset import open_dataset
from train.data.options import InputOptions
from train.data.pipeline import train_batches

Method = Callable[[bytes, np.random.Generator], np.ndarray]

SIZE = 299
BATCH = 32


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Time the input pipeline."""

    photos: int = 192
    """Number of synthetic photos of 500 x 375 pixels, ImageNet's mean size."""
    large_photos: int = 24
    """Number of synthetic photos of 2000 x 1500 pixels."""
    repeats: int = 3
    """How often each method is timed."""
    batches: int = 40
    """Number of batches of 32 images for which the whole pipeline is timed."""
    workers: int = 2
    """Number of worker processes of the whole pipeline."""
    seed: int = 0
    """Seed of the photos and of the crops."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: name of the method.
        speeds: images per second in every repeat.
        base: speeds of the method to compare with; None: no comparison.
    """

    name: str
    speeds: list[float]
    base: list[float] | None = None


def main(options: Options) -> None:
    """Times the input pipeline, and writes the table into docs/input_pipeline.md."""
    machine = page.machine("numpy", "pillow", "simplejpeg", "opencv-python-headless", "grain")
    reference_name, reference = reference_method()
    photos = make_photos(options.photos, 375, 500, options.seed)
    large = make_photos(options.large_photos, 1500, 2000, options.seed)
    methods = {reference_name: reference, "`train/`: decode_crop, flip": ours}
    rows = [*compare(methods, photos, options, "500x375"), whole_pipeline(photos, options)]
    rows += compare(
        {**methods, "`train/` without the reduction": full}, large, options, "2000x1500"
    )
    small_kb, large_kb = (sum(map(len, p)) / len(p) / 1000 for p in (photos, large))
    setting = (
        f"{len(photos)} synthetic photos of 500x375 with {small_kb:.0f} kB on average, "
        f"{len(large)} of 2000x1500 with {large_kb:.0f} kB, both 4:2:0; {options.repeats} repeats. "
        f"{machine}"
    )
    page.publish(options.docs / "input_pipeline.md", "input pipeline", setting, table(rows))


def make_photos(count: int, height: int, width: int, seed: int) -> list[bytes]:
    """Returns the bytes of synthetic photos, JPEG files with 4:2:0 chroma subsampling.

    They have hard edges, and noise with the spectrum of photos.
    """
    rng = np.random.default_rng(seed)
    return [make_photo(rng, height, width) for _ in range(count)]


def make_photo(rng: np.random.Generator, height: int, width: int) -> bytes:
    """Returns one of the photos of `make_photos`."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    amplitude = 1 / np.maximum(np.hypot(y, x), 1 / width) ** 1.1
    channels = []
    for _ in range(3):
        phase = np.exp(2j * math.pi * rng.random(amplitude.shape))
        noise = np.fft.irfft2(amplitude * phase, (height, width))
        channels.append(noise / noise.std())
    luma, blue, red = channels
    image = np.stack([luma + 0.4 * red, luma, luma + 0.4 * blue], axis=-1)
    for _ in range(8):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        color = rng.normal(size=3).tolist()
        cv2.circle(image, center, int(rng.integers(10, height // 4)), color, -1)
    image += rng.normal(scale=0.08, size=image.shape)  # noise of a camera's sensor
    pixels = np.uint8(np.clip(127 + 50 * image, 0, 255))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=92, subsampling="4:2:0")
    return stream.getvalue()


def reference_method() -> tuple[str, Method]:
    """Returns the name and the function of the method to compare with, torchvision's transforms.

    If torchvision is not installed, the method is `pillow`.
    """
    try:
        import torch
        from torchvision import transforms  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        return "Pillow, as torchvision calls it", pillow
    view = transforms.Compose(
        [transforms.RandomResizedCrop(SIZE, (0.08, 1)), transforms.RandomHorizontalFlip()]
    )

    def torchvision(data: bytes, rng: np.random.Generator) -> np.ndarray:
        torch.manual_seed(int(rng.integers(2**31)))
        return np.asarray(view(Image.open(io.BytesIO(data)).convert("RGB")))

    version = importlib.metadata.version("torchvision")
    return f"torchvision {version}: RandomResizedCrop, RandomHorizontalFlip", torchvision


def pillow(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """Decodes, crops, resizes and mirrors a training image with Pillow.

    It computes what torchvision's RandomResizedCrop and RandomHorizontalFlip compute.

    Args:
        data: a JPEG file.
        rng: generator of the crop and of the choice whether to mirror.

    Returns:
        Pixels [299, 299, 3] uint8.
    """
    image = Image.open(io.BytesIO(data)).convert("RGB")
    box = inception_box(image.height, image.width, rng, 0.08)
    image = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    if rng.integers(2):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def ours(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """Decodes, crops, resizes and mirrors a training image with this library.

    Args:
        data: a JPEG file.
        rng: generator of the crop and of the choice whether to mirror.

    Returns:
        Pixels [299, 299, 3] uint8.
    """
    return train_view(data, rng, "inception", SIZE, 3, 0.08, True)[0]


def full(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """Does the same as `ours`, but decodes the photo at full size."""
    reduction, decoding._reduction = decoding._reduction, lambda *_: 1
    try:
        return ours(data, rng)
    finally:
        decoding._reduction = reduction


def compare(
    methods: dict[str, Method], photos: list[bytes], options: Options, size: str
) -> list[Row]:
    """Times the methods in turn; returns a table row for each.

    All rows are compared with the first method.

    Args:
        methods: methods by name.
        photos: JPEG files.
        options: options with the number of repeats and the seed.
        size: size of the photos as text, such as 500x375.
    """
    speeds: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(options.repeats):
        for name, method in methods.items():
            rng = np.random.default_rng(options.seed)
            method(photos[0], rng)
            start = time.process_time()
            for photo in photos:
                np.ascontiguousarray(method(photo, rng))
            speeds[name].append(len(photos) / (time.process_time() - start))
            print(f"{size} {name}: {speeds[name][repeat]:.0f} images/s", file=sys.stderr)
    base = next(iter(speeds.values()))
    return [Row(f"{name}, {size}", values, base) for name, values in speeds.items()]


def whole_pipeline(photos: list[bytes], options: Options) -> Row:
    """Times worker processes that turn files into batches; returns a row of the table.

    The start of the processes is not timed.
    """
    speeds = []
    with tempfile.TemporaryDirectory() as folder:
        for split, split_photos in (("train", photos), ("val", photos[:1])):
            (Path(folder) / split / "class").mkdir(parents=True)
            for i, photo in enumerate(split_photos):
                (Path(folder) / split / "class" / f"{i}.jpg").write_bytes(photo)
        dataset = open_dataset("folder", Path(folder))
        inputs = InputOptions(SIZE, "inception", workers=options.workers)
        for _ in range(options.repeats):
            warm_up = 4 * options.workers  # more than the workers' buffers hold
            steps = options.batches + warm_up
            with train_batches(dataset, inputs, 0, steps, BATCH, options.seed) as batches:
                for _ in range(warm_up):
                    next(batches)
                start = time.perf_counter()
                shown = sum(len(batch["label"]) for batch in batches)
                speeds.append(shown / (time.perf_counter() - start))
    name = f"`train/`: files to batches, {options.workers} worker processes, wall time, 500x375"
    return Row(name, speeds)


def table(rows: list[Row]) -> str:
    """Returns a Markdown table with a row for each method."""
    lines = []
    for row in rows:
        slow, middle, fast = min(row.speeds), statistics.median(row.speeds), max(row.speeds)
        ratio = f"{middle / statistics.median(row.base):.2f}" if row.base else ""
        lines.append([row.name, f"{slow:.0f}", f"{middle:.0f}", f"{fast:.0f}", ratio])
    return page.table(["method", "images/s: slowest", "middle", "fastest", "ratio"], lines)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

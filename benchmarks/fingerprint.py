"""Measures how often BatchNorm's statistics reveal the options and the inputs of a network.

    python benchmarks/fingerprint.py --photos FOLDER    # FOLDER/class/*.jpg

trains narrow networks with all combinations of options and with several kinds of inputs, on photos
and on the embedded Fashion-MNIST images. Then it guesses the options and the kind of inputs of each
network from BatchNorm's statistics. It prints a table of how often there was a guess, and how often
the guess was right. Trained networks are stored in `--workdir`, so that the same command continues
after an interruption.

Two methods are compared. The first is `inception_jax.weights.fingerprint`, which needs only NumPy;
`inception-jax inspect` uses it where it is reliable. The second runs the network on noise with each
possible value of an option and computes the batch's statistics in every layer. It guesses the value
whose batch statistics are nearest to the running statistics in the weight file. The second method
is tried for all options, including padding and epsilon, which the first method cannot guess.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from flax import nnx
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import inception_jax as ij
from inception_jax.folders import image_files
from inception_jax.nn.layers import IMAGENET_MEAN, IMAGENET_STD
from inception_jax.nn.model import Model, Spec
from inception_jax.weights import fingerprint
from inception_jax.weights.weight_file import spec_of
from train.data.fashion_mnist import open_fashion_mnist


@dataclasses.dataclass(frozen=True)
class Options:
    """Train networks with known options, and guess the options from the weights."""

    photos: Path | None = None
    """Folder of images, with a subfolder for each class; default: only the embedded images."""
    workdir: Path = Path("runs/fingerprint")
    """Folder of the trained networks."""
    arch: tuple[str, ...] = ("inception_v3", "bn_inception", "inception_v1", "xception")
    """Networks to train."""
    count: int = 12
    """How often each network is trained, with different options and inputs."""
    steps: int = 150
    """Number of training steps."""
    batch_size: int = 16
    """Number of images in a step."""
    image_size: int = 96
    """Side of the images, in pixels."""
    width_multiplier: float = 0.125
    """Factor on every channel count."""
    forward: bool = True
    """Also try the second method, which takes most of the time."""


# Kinds of inputs. For pixels in [0, 1]: the value to subtract, the divisor, the order of colours.
INPUTS: dict[str, tuple[Any, Any, str]] = {
    "in [-1, 1]": (0.5, 0.5, "RGB"),
    "in [0, 1]": (0.0, 1.0, "RGB"),
    "in [0, 255]": (0.0, 1 / 255, "RGB"),
    "normalised with ImageNet's mean and deviation": (IMAGENET_MEAN, IMAGENET_STD, "RGB"),
    "in [0, 255], less their mean": (np.array([104, 117, 123]) / 255, 1 / 255, "BGR"),
    "in [-1, 1], BGR": (0.5, 0.5, "BGR"),
}
READINGS: dict[str, dict[str, tuple[Any, Any]]] = {
    "inception_v3": {"count_include_pad": (True, False), "bn_eps": (1e-3, 1e-5)},
    "bn_inception": {"count_include_pad": (True, False), "pad_mode": ("tf", "torch")},
    "inception_v1": {"pad_mode": ("tf", "torch"), "bn_eps": (1e-3, 1e-5)},
    "xception": {"pad_mode": ("tf", "torch"), "bn_eps": (1e-3, 1e-5)},
}
Patches = dict[str, np.ndarray]  # images for the covariance of pixels, by kind
# Names of the first convolution; in all other networks, it is conv1.
FIRST = {"inception_v3": "Conv2d_1a_3x3", "xception": "block1_conv1"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One network of the experiment.

    Attributes:
        arch: name of the network.
        readings: options of the network, by name; they are guessed later.
        pixels: kind of inputs, a key of `INPUTS`.
        photos: whether the network is trained on photos; otherwise, on the embedded images.
        seed: seed of the initial parameters, of dropout and of the choice of images.
    """

    arch: str
    readings: dict[str, Any]
    pixels: str
    photos: bool
    seed: int


def cases(options: Options) -> Iterator[Case]:
    """Yields every network of the experiment.

    The networks of an architecture cycle through all combinations of options and all kinds of
    inputs.
    """
    for arch in options.arch:
        sides = READINGS[arch]
        grid = [dict(zip(sides, x, strict=True)) for x in itertools.product(*sides.values())]
        for i in range(options.count):
            pixels = list(INPUTS)[(i + i // 4) % len(INPUTS)]
            photos = options.photos is not None and i % 3 != 2
            yield Case(arch, grid[i % len(grid)], pixels, photos, i)


def sources(options: Options) -> dict[bool, tuple[np.ndarray, np.ndarray]]:
    """Returns images and labels: the photos' under True, the embedded images' under False.

    Images are uint8 [n, size, size, 3]. The key True is missing without `options.photos`.
    """
    embedded: Any = open_fashion_mnist().train
    grey = [
        (Image.fromarray(image[..., 0]), int(label))
        for image, label in zip(embedded.images[:3000], embedded.labels[:3000], strict=True)
    ]
    found = {False: _resized(grey, options.image_size)}
    if options.photos is not None:
        folders = sorted(path for path in options.photos.iterdir() if path.is_dir())
        photos: list[tuple[Image.Image, int]] = [
            (Image.open(path), label)
            for label, folder in enumerate(folders)
            for path in image_files(folder).images[:300]
        ]
        found[True] = _resized(photos, options.image_size)
    return found


def _resized(images: list[tuple[Image.Image, int]], size: int) -> tuple[np.ndarray, np.ndarray]:
    side = (size, size)
    pixels = [
        np.asarray(x.convert("RGB").resize(side, Image.Resampling.BICUBIC)) for x, _ in images
    ]
    return np.stack(pixels), np.array([label for _, label in images])


def fed(pixels: np.ndarray, how: str) -> np.ndarray:
    """Converts pixels in [0, 1] to the input of a network.

    Args:
        pixels: RGB images [n, h, w, 3].
        how: kind of inputs, a key of `INPUTS`.
    """
    subtracted, divisor, order = INPUTS[how]
    pixels = pixels[..., ::-1] if order == "BGR" else pixels
    return ((pixels - subtracted) / divisor).astype(np.float32)


def trained(case: Case, options: Options, data: tuple[np.ndarray, np.ndarray]) -> Model:
    """Returns the network of a case, trained with Adam on images and labels.

    `data` is a pair of images and labels, from `sources`.
    """
    model = ij.create_model(
        case.arch,
        num_classes=int(data[1].max()) + 1,
        width_multiplier=options.width_multiplier,
        rngs=nnx.Rngs(case.seed),
        **case.readings,
    )
    model.train()
    optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)
    rng, rngs = np.random.default_rng(case.seed), nnx.Rngs(dropout=case.seed)
    for _ in range(options.steps):
        chosen = rng.integers(len(data[0]), size=options.batch_size)
        step(model, optimizer, rngs, fed(data[0][chosen] / 255, case.pixels), data[1][chosen])
    model.eval()
    model.training = {"pixels": case.pixels, "photos": case.photos, "steps": options.steps}
    return model


@nnx.jit
def step(model: Model, optimizer: nnx.Optimizer, rngs: nnx.Rngs, images: Any, labels: Any) -> None:
    """Updates the model by one training step."""

    def loss(model: Model, rngs: nnx.Rngs) -> jax.Array:
        logits: Any = model(images, rngs=rngs)  # no auxiliary heads
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer.update(model, nnx.grad(loss)(model, rngs))


Answers = Iterator[tuple[str, Any, Any]]  # subject, guess (None: no guess), true value


def by_layers(model: Model, patches: Patches) -> Answers:
    """Guesses the kind of inputs and `count_include_pad` from the statistics of single layers.

    It guesses the range of the inputs, and their order of colours if training used photos.
    This is the method of `inception-jax inspect`.

    Args:
        model: network whose inputs and options are guessed.
        patches: images by kind, "noise" or "photos"; the covariance of their pixels is used.

    Yields:
        What is guessed, such as "pixels, by noise"; the guess, None if there is none; and the true
        value.
    """
    arch, tensors, truth = spec_of(model).name, ij.to_torch(model), model.training or {}
    pixels = truth["pixels"].removesuffix(", BGR")
    right_order = INPUTS[truth["pixels"]][2]
    for kind, images in patches.items():
        found = fingerprint.input_of(tensors, FIRST.get(arch, "conv1"), images)
        yield f"pixels, by {kind}", found and found.range, pixels
        if truth["photos"] and found:
            yield f"order of colours, by {kind}", found.order or None, right_order
    border = fingerprint.border_of_pools(tensors, arch)
    if border is not None:
        answer = fingerprint.counts_border(border)
        yield "count_include_pad", answer, dict(spec_of(model).readings)["count_include_pad"]


def by_forward(model: Model, images: np.ndarray) -> Answers:
    """Guesses options of a network by running it once with each candidate value of an option.

    `READINGS` has the options of each network and their candidate values, such as 1e-3 and 1e-5 for
    `bn_eps`.

    Args:
        model: network whose options are guessed.
        images: batch on which the network runs, in the kind of inputs that it was trained on.

    Yields:
        What is guessed, such as "bn_eps, by running it"; the guess; and the true value. The guess
        is the value whose batch statistics are nearest to the running statistics.
    """
    spec, state = spec_of(model), ij.to_torch(model)
    for option, values in READINGS[spec.name].items():
        distances = {value: _distance(spec, state, images, {option: value}) for value in values}
        truth = dict(spec.readings)[option]
        yield f"{option}, by running it", min(distances, key=distances.__getitem__), truth


def _distance(spec: Spec, state: Any, images: np.ndarray, changed: dict[str, Any]) -> float:
    """Returns the distance between batch statistics and running statistics, summed over all layers.

    Args:
        spec: description of the network.
        state: parameters and running statistics of the network.
        images: batch on which the network runs.
        changed: new values of options, by name; all other options keep their values.
    """
    own = {**dict(spec.readings), **changed, "bn_momentum": 0.0, "dropout": 0.0}
    model = ij.create_model(
        spec.name,
        weights=state,
        num_classes=spec.num_classes,
        width_multiplier=spec.width_multiplier,
        **own,
    )
    model.train()
    _run(model, images)  # with momentum 0, the batch's statistics become the running statistics
    found, total = ij.to_torch(model), 0.0
    for name in (x for x in state if x.endswith("running_mean")):
        deviation = f"{name.removesuffix('mean')}var"
        total += np.mean(np.abs(found[name] - state[name]) / np.sqrt(state[deviation]))
        total += np.mean(np.abs(np.log(found[deviation] / state[deviation])))
    return float(total)


@nnx.jit
def _run(model: Model, images: Any) -> None:
    model(images, rngs=nnx.Rngs(0))


def main(options: Options) -> None:
    """Trains the networks that are not stored yet, then guesses their options from the weights.

    It prints a table of how many guesses are right.
    """
    data = sources(options)
    options.workdir.mkdir(parents=True, exist_ok=True)
    for case in cases(options):
        kind = "photos" if case.photos else "embedded"
        path = options.workdir / f"{case.arch}-{options.image_size}-{kind}-{case.seed}.safetensors"
        if not path.exists():
            ij.save_weights(trained(case, options, data[case.photos]), path)
            print(f"trained {path}", flush=True)
    patches: Patches = {"noise": fingerprint.natural_images()}
    if True in data:
        photos = data[True][0][:64, ::3, ::3] / 255
        patches["photos"] = photos - photos.mean((0, 1, 2))
    tally: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    noise = np.clip(fingerprint.natural_images(options.image_size, 16) + 0.45, 0, 1)
    for path in sorted(options.workdir.glob("*.safetensors")):
        model = ij.load(path)
        answers = list(by_layers(model, patches))
        if options.forward:
            answers += by_forward(model, fed(noise, (model.training or {})["pixels"]))
        for question, answer, truth in answers:
            counts = tally[spec_of(model).name, question]
            counts[0] += 1
            counts[1] += answer is not None
            counts[2] += answer == truth
    print("| network | reading | networks | answered | right |\n|---|---|---|---|---|")
    for (arch, question), counts in sorted(tally.items()):
        print(f"| {arch} | {question} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Guesses a network's preprocessing and pooling from BatchNorm's running statistics.

A convolution is linear, so the running mean after it is the mean of its input times the sum of its
kernel over the window. For the first layer, these equations give the mean pixel of the training
images. For the parallel 1x1 convolutions of an Inception module, they give the mean of their common
input. If the module's average pool divides by 9 at the border too, the mean after the pool is
smaller. The running variances of the first layer give the contrast of the pixels.

`benchmarks/fingerprint.py` measures how often each guess is right. Padding and epsilon are not
guessed.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from inception_jax.nn.layers import IMAGENET_MEAN, IMAGENET_STD
from inception_jax.registry import ModelInfo
from inception_jax.weights.torch_names import Tensors

_GREY, _CONTRAST = 0.45, 0.25  # mean and deviation of the pixels of photos, in [0, 1]
_MARGIN = 2.0  # smallest margin between the best guess and the next
_WORST = 6.0  # largest misfit of the best guess; above it, none fits
_COLOUR = 0.02  # smallest difference between the means of red and blue; less may be grey

# Preprocessing of pixels in [0, 1]: the mean that is subtracted, and the divisor.
_INPUTS: dict[str, tuple[tuple[float, ...], float]] = {
    "in [-1, 1]": ((0.5, 0.5, 0.5), 0.5),
    "in [0, 1]": ((0.0, 0.0, 0.0), 1.0),
    "in [0, 255]": ((0.0, 0.0, 0.0), 1 / 255),
    "normalised with ImageNet's mean and deviation": (IMAGENET_MEAN, sum(IMAGENET_STD) / 3),
    "in [0, 255], less their mean": ((_GREY, _GREY, _GREY), 1 / 255),
}
# Sides of the feature maps that are average pooled, at the published image size, by the number in
# the stage's name.
_SIDES = {
    "inception_v3": {"5": 35, "6": 17, "7": 8},
    "bn_inception": {"3": 28, "4": 14, "5": 7},
}
_POOL = re.compile(r"(\w+?_?(\d)\w)\.branch_pool\.conv\.weight")


@dataclasses.dataclass(frozen=True)
class Input:
    """How the training images of a network were preprocessed.

    Attributes:
        range: how pixels were scaled: a key of `_INPUTS`, such as "in [-1, 1]".
        order: "RGB" or "BGR"; empty if the statistics do not show it.
        mean: mean of each channel of the training images, for pixels in [0, 1].
    """

    range: str
    order: str
    mean: tuple[float, ...]


def input_of(tensors: Tensors, first: str, images: np.ndarray | None = None) -> Input | None:
    """Guesses how the training images were preprocessed, from the first layer's statistics.

    Args:
        tensors: tensors by their names in the PyTorch twin.
        first: name of the first layer, such as "conv1".
        images: images [n, h, w, 3] with the contrast of photos; None: `natural_images`.

    Returns:
        The guess; None if the layer has no BatchNorm, or if its statistics do not show the
        preprocessing.
    """
    try:
        kernel, mean, variance = _layer(tensors, first)
    except KeyError:  # no BatchNorm under this name
        return None
    if kernel.shape[1] != 3 or len(kernel) < 8 or np.ptp(variance) == 0:
        return None
    seen = np.linalg.lstsq(kernel.sum((2, 3)), mean, rcond=1e-3)[0]
    filters = kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
    expected = np.einsum("oi,ij,oj->o", filters, _covariance(kernel.shape[-1], images), filters)
    scale = math.sqrt(max(np.median(variance / expected), 1e-12))
    found = sorted((_misfit(seen, scale, name), name) for name in _INPUTS)
    if found[0][0] > _WORST or found[1][0] - found[0][0] < _MARGIN:
        return None
    name = found[0][1]
    subtracted, divisor = _INPUTS[name]
    pixels = seen * divisor + np.asarray(subtracted)
    tells_order = len(set(subtracted)) == 1 and "less" not in name
    order = ""
    if tells_order and abs(pixels[0] - pixels[2]) > _COLOUR:  # photos are warm
        order = "RGB" if pixels[0] > pixels[2] else "BGR"
    return Input(name, order, tuple(pixels.tolist()))


def expected_input(info: ModelInfo) -> str:
    """Returns the value of `Input.range` that is closest to a network's preprocessing."""
    subtracted = np.asarray(info.mean) / info.input_range
    divisor = np.asarray(info.std) / info.input_range
    if info.options.get("transform_input"):
        divisor = divisor * 0.5 / np.asarray(IMAGENET_STD)
        subtracted = subtracted - (np.asarray(IMAGENET_MEAN) - 0.5) / 0.5 * divisor

    def distance(name: str) -> float:
        mean, scale = _INPUTS[name]
        return abs(math.log(divisor.mean() / scale)) + abs(subtracted.mean() - np.mean(mean))

    return min(_INPUTS, key=distance)


def _misfit(seen: np.ndarray, scale: float, name: str) -> float:
    """Returns how far the training images are from photos if they were preprocessed as `name`.

    It is a squared distance between contrasts and means.

    Args:
        seen: mean of each channel of the preprocessed images.
        scale: contrast of the preprocessed images, divided by that of photos with pixels in [0, 1].
        name: assumed preprocessing, a key of `_INPUTS`.
    """
    subtracted, divisor = _INPUTS[name]
    pixels = seen * divisor + np.asarray(subtracted)
    contrast = math.log(scale * divisor) / 0.4
    return contrast**2 + float(np.mean(((pixels - _GREY) / 0.15) ** 2))


def _layer(tensors: Tensors, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a layer's kernel [out, in, h, w], and its output's mean and variance without bias."""
    wide = {
        leaf: tensors[f"{name}.{leaf}"].astype(np.float64)
        for leaf in ("conv.weight", "bn.running_mean", "bn.running_var")
    }
    bias = tensors.get(f"{name}.conv.bias")
    mean = wide["bn.running_mean"] - (0 if bias is None else bias.astype(np.float64))
    return wide["conv.weight"], mean, wide["bn.running_var"]


def natural_images(size: int = 96, count: int = 8) -> np.ndarray:
    """Returns noise with the statistics of photos, [count, size, size, 3], always the same.

    Amplitudes decrease with the frequency, and the colours are almost equal. The mean is 0, and the
    standard deviation is that of photos with pixels in [0, 1].
    """
    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequency = np.maximum(np.hypot(rows, columns), 1 / size)
    spectrum = np.fft.rfft2(rng.normal(size=(count, 3, size, size))) / frequency
    images = np.fft.irfft2(spectrum, (size, size)).transpose(0, 2, 3, 1)
    colours = np.linalg.cholesky(0.95 * np.ones((3, 3)) + 0.05 * np.eye(3))
    images = images @ colours.T
    return (images - images.mean((0, 1, 2))) / images.std((0, 1, 2)) * _CONTRAST


def _covariance(window: int, images: np.ndarray | None = None) -> np.ndarray:
    """Returns the covariance of the pixel values in a window, flattened from [h, w, channel].

    Args:
        window: side of the square window, in pixels.
        images: see `input_of`.
    """
    images = natural_images() if images is None else images
    patches = np.lib.stride_tricks.sliding_window_view(images, (window, window), axis=(1, 2))
    return np.cov(patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, window * window * 3)[::3].T)


def border_of_pools(tensors: Tensors, arch: str) -> float | None:
    """Measures whether average pools divide by 9 at the border of feature maps too.

    Such pools reduce the mean of a feature map, because they count padding. The result is the
    reduction that BatchNorm's statistics show, divided by the reduction by such pools on feature
    maps of the published sizes. It is the median over all modules with an average pool.

    Returns:
        About 0: the pools divide by the number of pixels inside the feature map
        (`count_include_pad=False`). About 1: they divide by 9 (`count_include_pad=True`). Above 1:
        they divide by 9, on smaller feature maps. None: it cannot be measured for this network, or
        a tensor is missing.
    """
    sides = _SIDES.get(arch)
    found = list(_losses(tensors, sides)) if sides else []
    return float(np.median(found)) if found else None


def counts_border(share: float) -> bool | None:
    """Returns `count_include_pad` for `share`, a result of `border_of_pools`; None if unclear."""
    return None if 0.3 < share < 0.7 else share > 0.5


def _losses(tensors: Tensors, sides: Mapping[str, int]) -> Iterator[float]:
    """Yields the value that `border_of_pools` measures, for each module with an average pool.

    Args:
        tensors: tensors by their names in the PyTorch twin.
        sides: sides of the pooled feature maps, a value of `_SIDES`.
    """
    for name in tensors:
        match = _POOL.fullmatch(name)
        if match is None or match[2] not in sides:
            continue
        module, side = match[1], sides[match[2]]
        try:
            pooled, behind, _ = _layer(tensors, f"{module}.branch_pool")
            beside = [_layer(tensors, layer) for layer in _siblings(tensors, module)]
        except KeyError:
            continue
        kernels = np.concatenate([kernel[:, :, 0, 0] for kernel, _, _ in beside])
        means = np.concatenate([mean for _, mean, _ in beside])
        expected = pooled[:, :, 0, 0] @ _mean_input(kernels, means)
        kept = (expected @ behind) / (expected @ expected)
        yield float(1 - kept) / (1 - (1 - 2 / (3 * side)) ** 2)


def _siblings(tensors: Tensors, module: str) -> list[str]:
    """Returns the names of the 1x1 convolutions that share the input of a module's pool."""
    pattern = re.compile(rf"({re.escape(module)}\.branch(?:1x1|\w+_1))\.conv\.weight")
    return [match[1] for match in map(pattern.fullmatch, tensors) if match]


def _mean_input(kernels: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Solves kernels @ x = means for the x that is nearest to a constant vector."""
    sums = kernels.sum(1)
    constant = (sums @ means) / (sums @ sums)
    products = kernels @ kernels.T
    ridge = 1e-2 * np.trace(products) / len(products) * np.eye(len(products))
    rest = np.linalg.solve(products + ridge, means - constant * sums)
    return constant + kernels.T @ rest

"""Augmentation on the device: distorts colours, normalises, erases rectangles, mixes images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import inception_jax as ij
from inception_jax.registry import ModelInfo
from train.engine.training_options import AugmentationOptions

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Turns uint8 images into the input of a network.

    Holds the options, and the size, dtype and normalisation of the network's input.
    """

    options: AugmentationOptions  # of training
    arch: str  # network whose normalisation is applied
    size: int  # side of the images that the network takes
    dtype: str  # dtype of the network's computations
    info: ModelInfo | None = None  # replaces the normalisation of `arch`

    def prepare(self, images: Array) -> Array:
        """Resizes and normalises uint8 images [n, h, w, c] for evaluation."""
        return self._normalise(self._to_unit(images)).astype(self.dtype)

    def augment(self, images: Array, key: Array) -> Array:
        """Distorts and normalises uint8 images [n, h, w, c] for training, and erases rectangles."""
        colours, boxes = jax.random.split(key)
        x = self._to_unit(images)
        if self.options.distort == "inception" and x.shape[3] == 3:
            x = distort(x, colours)
        x = self._normalise(x)
        if self.options.random_erasing:
            x = erase(x, self.options.random_erasing, boxes)
        return x.astype(self.dtype)

    def mix(self, x: Array, targets: Array, key: Array) -> tuple[Array, Array]:
        """Mixes neighbours in a batch by Mixup (arXiv:1710.09412) or CutMix (arXiv:1905.04899).

        As in timm's mode "batch", the whole batch has one mixing ratio. If Mixup and CutMix are
        both enabled, one of them is chosen at random for the batch. timm mixes the first image with
        the last, the second with the last but one, and so on. That would send every image to
        another device. In a shuffled batch, neighbours are equally good partners.

        Args:
            x: images [n, h, w, c].
            targets: probabilities of the labels [n, classes].
            key: random key of this step.

        Returns:
            The mixed images and targets; unchanged if neither method is enabled.
        """
        mixup, cutmix = self.options.mixup, self.options.cutmix
        if not (mixup or cutmix):
            return x, targets
        switch, of_mixup, of_cutmix, place = jax.random.split(key, 4)
        cut = jax.random.uniform(switch) < (0.5 if mixup else 1.0)
        cut = cut & bool(cutmix)
        alpha, beta = mixup or 1.0, cutmix or 1.0
        mixed = jax.random.beta(of_mixup, alpha, alpha)
        box, kept = _cut(jax.random.beta(of_cutmix, beta, beta), x.shape[1], x.shape[2], place)
        share = jnp.where(cut, kept, mixed)
        weight = jnp.where(cut, 1.0 - box[None, :, :, None], mixed).astype(x.dtype)
        return (
            weight * x + (1 - weight) * _neighbours(x),
            share * targets + (1 - share) * _neighbours(targets),
        )

    def _to_unit(self, images: Array) -> Array:
        """Scales uint8 images to [0, 1], and resizes them to the network's size if necessary."""
        x = images.astype(jnp.promote_types(jnp.float32, self.dtype)) / 255
        shape = (x.shape[0], self.size, self.size, x.shape[3])
        return x if x.shape == shape else jax.image.resize(x, shape, "bilinear")

    def _normalise(self, x: Array) -> Array:
        """Normalises images in [0, 1] as the network expects. Grey images are mapped to [-1, 1]."""
        if x.shape[3] != 3 and self.info is None:
            return x * 2 - 1
        info = self.info or ij.model_info(self.arch)
        x = x[..., ::-1] if info.channel_order == "bgr" else x
        mean, std = (np.asarray(value, np.float32) for value in (info.mean, info.std))
        return (x * info.input_range - mean) / std


def distort(x: Array, key: Array) -> Array:
    """Distorts the colours of RGB images in [0, 1] like `distort_color` of TF-slim.

    Adds up to 32/255 to the brightness or subtracts it, multiplies saturation and contrast by 0.5
    to 1.5, and rotates the hue by up to a fifth of the circle, in one of four orders. In TF-slim
    (inception_preprocessing.py), each input thread has a fixed order. Here, each batch has a
    random one.
    """
    order, *keys = jax.random.split(key, 5)
    shape = (x.shape[0], 1, 1, 1)
    by = jax.random.uniform(keys[0], shape, minval=-32 / 255, maxval=32 / 255)
    more = jax.random.uniform(keys[1], shape, minval=0.5, maxval=1.5)
    turn = jax.random.uniform(keys[2], shape, minval=-0.2, maxval=0.2)
    steeper = jax.random.uniform(keys[3], shape, minval=0.5, maxval=1.5)

    def brightness(x: Array) -> Array:
        return x + by

    def contrast(x: Array) -> Array:
        mean = x.mean((1, 2), keepdims=True)
        return (x - mean) * steeper + mean

    def saturation(x: Array) -> Array:
        return saturate(x, more)

    def hue(x: Array) -> Array:
        return rotate_hue(x, turn)

    orders = (
        (brightness, saturation, hue, contrast),
        (saturation, brightness, contrast, hue),
        (contrast, hue, brightness, saturation),
        (hue, saturation, contrast, brightness),
    )

    def chain(steps: tuple) -> Callable[[Array], Array]:
        def apply(x: Array) -> Array:
            for step in steps:
                x = step(x)
            return x

        return apply

    chosen = jax.random.randint(order, (), 0, len(orders))
    return jnp.clip(jax.lax.switch(chosen, [chain(steps) for steps in orders], x), 0, 1)


def saturate(x: Array, factor: Array) -> Array:
    """Multiplies the HSV saturation of RGB images, like `tf.image.adjust_saturation`."""
    value = x.max(3, keepdims=True)
    spread = value - x.min(3, keepdims=True)
    old = spread / jnp.where(value == 0, 1, value)
    new = jnp.clip(old * factor, 0, 1)
    return value - (value - x) * new / jnp.where(old == 0, 1, old)


def rotate_hue(x: Array, turn: Array) -> Array:
    """Adds `turn` to the HSV hue of RGB images, like `tf.image.adjust_hue`. 1 is a full circle."""
    red, green, blue = x[..., :1], x[..., 1:2], x[..., 2:]
    value = x.max(3, keepdims=True)
    spread = value - x.min(3, keepdims=True)
    safe = jnp.where(spread == 0, 1, spread)
    sixth = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    k = (jnp.array([5, 3, 1]) + sixth + 6 * turn) % 6
    return value - spread * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def erase(x: Array, share: float, key: Array) -> Array:
    """Replaces a random rectangle of some images with normal noise, like timm's mode "pixel".

    This is Random Erasing (arXiv:1708.04896). A rectangle has 2 to 33 % of the area, and an aspect
    ratio of 0.3 to 3.3.

    Args:
        x: images [n, h, w, c].
        share: probability that an image gets a rectangle.
        key: random key of this step.
    """
    n, height, width, _ = x.shape
    which, area, ratio, top, left, noise = jax.random.split(key, 6)
    area_of = jax.random.uniform(area, (n,), minval=0.02, maxval=1 / 3) * height * width
    log = np.log(3.3)
    aspect = jnp.exp(jax.random.uniform(ratio, (n,), minval=-log, maxval=log))
    h = jnp.minimum(jnp.sqrt(area_of * aspect), height - 1)
    w = jnp.minimum(jnp.sqrt(area_of / aspect), width - 1)
    y = jax.random.uniform(top, (n,)) * (height - h)
    z = jax.random.uniform(left, (n,)) * (width - w)
    inside = _rectangle(y, z, h, w, height, width)
    inside &= (jax.random.uniform(which, (n,)) < share)[:, None, None]
    return jnp.where(inside[..., None], jax.random.normal(noise, x.shape, x.dtype), x)


def _neighbours(x: Array) -> Array:
    """Swaps the first row of an array with the second, the third with the fourth, and so on."""
    even = len(x) // 2 * 2
    pairs = x[:even].reshape(even // 2, 2, *x.shape[1:])
    return jnp.concatenate([pairs[:, ::-1].reshape(x[:even].shape), x[even:]])


def _cut(share: Array, height: int, width: int, key: Array) -> tuple[Array, Array]:
    """Returns the mask of a random rectangle, and the share of the area outside it.

    The mask [height, width] is 1 inside the rectangle, which is clipped to the image. Before
    clipping, the share of the area outside the rectangle is `share`.
    """
    side = jnp.sqrt(1 - share)
    h, w = height * side, width * side
    y, z = jax.random.uniform(key, (2,)) * jnp.array([height, width]) - jnp.array([h, w]) / 2
    inside = _rectangle(y[None], z[None], h[None], w[None], height, width)[0]
    return inside.astype(jnp.float32), 1 - inside.mean()


def _rectangle(y: Array, x: Array, h: Array, w: Array, height: int, width: int) -> Array:
    """Returns bool masks [n, height, width] of the pixels whose centres are inside n rectangles.

    `y` and `x` [n] are the top and left edges in pixels, `h` and `w` [n] the sides.
    """
    rows, columns = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5
    y, x, h, w = (v[:, None] for v in (y, x, h, w))
    down = (rows >= y) & (rows < y + h)
    across = (columns >= x) & (columns < x + w)
    return down[:, :, None] & across[:, None, :]

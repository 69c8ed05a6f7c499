"""Networks with random tensors, and comparisons of arrays. This module does not need PyTorch."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax.create import abstract_model
from inception_jax.nn.layers import BatchNorm
from inception_jax.weights import torch_names

# Largest difference allowed, relative to the largest number of the compared tensor.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
WIDTH = 0.125
CLASSES = 10


# Maps a description to the name of a network and a wrong value of one of its options.
WRONG_READINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "GoogLeNet's first padding": ("inception_v1", {"pad_mode": "torch"}),
    "GoogLeNet's last pool": ("inception_v1.bvlc_in1k", {"maxpool4_window": 2}),
    "BN-Inception's padding": ("bn_inception", {"pad_mode": "tf"}),
    "BN-Inception's average pools": ("bn_inception", {"count_include_pad": False}),
    "residual scale": ("inception_resnet_v1", {"scales": (0.17, 0.17, 0.20)}),
    "last residual block": ("inception_resnet_v2", {"linear_last_block": False}),
    "epsilon of 41p": ("xception41p", {"bn_eps": 1e-3}),
    "dilation": ("xception41", {"output_stride": 16}),
    "padding": ("xception", {"pad_mode": "torch"}),
    "Xception's epsilon": ("xception", {"bn_eps": 1e-5}),
    "epsilon": ("inception_v3", {"bn_eps": 1e-5}),
    "border of the average pools": ("inception_v3", {"count_include_pad": True}),
    "FID's max pool": ("inception_v3", {"mixed_7c_pool": "max"}),
    "input transform": ("inception_v3", {"transform_input": True}),
}

# Networks that run another network's code with more or wider blocks.
DEEP = {
    "inception_next_base",
    "inception_next_small",
    "inception_next_tiny",
    "xception65",
    "xception65p",
    "xception71",
}


def deep_ones_slow(names: list[str]) -> list[Any]:
    """Returns network names as test parameters; deep networks are marked slow."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if name.partition(".")[0] in DEEP else name
        for name in names
    ]


# One network of each kind of module, for tests of code that all networks share.
_KINDS = {
    "inception_v1",
    "inception_v3",
    "inception_resnet_v2",
    "xception41p",
    "inception_next_atto",
}


def one_of_each_kind(names: list[str]) -> list[Any]:
    """Returns network names as test parameters; all but one per kind of module are marked slow."""
    return [
        name if name in _KINDS else pytest.param(name, marks=pytest.mark.slow) for name in names
    ]


def distinct_readings() -> list[str]:
    """Returns one network name for each architecture and distinct set of options.

    Options that only affect training are ignored.
    """
    seen: dict[Any, str] = {}
    for name in [*ij.list_models(), *ij.list_models(tags=True)]:
        info = ij.model_info(name)
        only_training = {"bn_momentum", *not_random(name)}
        options = {k: v for k, v in info.readings.items() if k not in only_training}
        seen.setdefault((info.arch, tuple(sorted(options.items()))), name)
    return list(seen.values())


def options_for(name: str) -> dict:
    """Returns options that build the auxiliary heads and only two blocks of each repeated kind."""
    readings = ij.model_info(name).options
    options: dict = {"aux_heads": True} if ij.model_info(name).aux_heads else {}
    return options | ({"blocks": (2, 2, 2)} if "blocks" in readings else {})


def not_random(name: str) -> dict[str, float]:
    """Returns the options that turn off dropout and drop path."""
    readings = ij.model_info(name).options
    return {option: 0.0 for option in readings if "drop" in option}


_caches: list[Callable[[], None]] = []


def kept_for_a_network(function: Callable) -> Callable:
    """Caches a function's results until `forget` is called."""
    cached = functools.cache(function)
    _caches.append(cached.cache_clear)
    return cached


def forget() -> None:
    """Clears the results that `kept_for_a_network` has cached."""
    for clear in _caches:
        clear()


def skeleton(name: str, **options: Any) -> nnx.Module:
    """Returns a new network with shapes instead of arrays; weights can be loaded into it.

    Args:
        name: name of the network, with or without a tag.
        **options: options of `create_model`.
    """
    return nnx.clone(_traced(name, tuple(sorted(options.items()))))


@kept_for_a_network
def _traced(name: str, options: tuple[tuple[str, Any], ...]) -> nnx.Module:
    # Tracing a deep network takes seconds, copying the result some milliseconds.
    return abstract_model(name, **dict(options))


def filled(name: str, **options) -> nnx.Module:
    """Returns a new network with random values in every tensor, see `fill`.

    Args:
        name: name of the network, with or without a tag.
        **options: options of `create_model`.
    """
    model = skeleton(name, **options)
    fill(model)
    return model


def fill(model: nnx.Module) -> None:
    """Fills every tensor with random numbers, drawn in float32 with a seed from the tensor's name.

    The numbers depend neither on JAX's random numbers nor on the order of the tensors, and are
    equal in float32 and float64. Scales, biases and statistics are random too: a new network's ones
    and zeros would hide a swapped or missing tensor. Nothing is compiled.
    """

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        names = tuple(key.key for key in path)
        rng = np.random.default_rng(zlib.crc32(torch_names.torch_name(names).encode()))
        kind, shape = names[-1], leaf.shape
        if kind in ("scale", "var"):
            numbers = rng.uniform(0.5, 1.5, shape)
        elif kind == "kernel":  # keeps the signal's size; most depthwise kernels have no ReLU
            gain = 1 if "depthwise" in names else 2
            numbers = rng.normal(0, np.sqrt(gain / np.prod(shape[:-1])), shape)
        else:
            numbers = rng.normal(0, 0.1 if kind == "bias" else 0.3, shape)
        return numbers.astype(np.float32).astype(leaf.dtype)

    nnx.update(model, jax.tree_util.tree_map_with_path(draw, torch_names.state_of(model)))


def made_up(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a random float32 array for a tensor of a weight file; variances are not negative.

    Args:
        rng: generator of the numbers.
        name: name of the tensor; that of a variance ends in "running_var" or "moving_variance".
        shape: shape of the tensor.
    """
    numbers = rng.normal(size=shape).astype(np.float32)
    return np.abs(numbers) if name.endswith(("running_var", "moving_variance")) else numbers


@kept_for_a_network
def network(name: str, dtype: str, *, hostile: bool = False, **options: Any) -> nnx.Module:
    """Returns a narrow network with random tensors, in evaluation mode.

    The network is cached and shared by tests: do not change it.

    Args:
        name: name of the network, with or without a tag.
        dtype: dtype of the parameters and of the computation.
        hostile: make a tenth of the running variances tiny, see `make_hostile`.
        **options: options of `create_model`, in addition to those of `small` or in their place.
    """
    model = filled(name, dtype=dtype, param_dtype=dtype, **{**small(name), **options})
    if hostile:
        make_hostile(model)
    return model


def small(name: str) -> dict[str, Any]:
    """Returns options for a narrow network with few classes and no randomness in training."""
    return {"width_multiplier": WIDTH, "num_classes": CLASSES, **not_random(name)}


def make_hostile(model: nnx.Module) -> None:
    """Sets about a tenth of the running variances to 1e-14; a published file has such variances.

    In these channels, BatchNorm's epsilon decides the result. Their scales are reduced, because the
    signal would otherwise grow from layer to layer.
    """
    rng = np.random.default_rng(1)
    for norm in [m for _, m in nnx.iter_modules(model) if isinstance(m, BatchNorm)]:
        few = rng.uniform(size=norm.var[...].shape) < 0.1
        norm.var.set_value(jnp.where(few, 1e-14, norm.var[...]))
        scale = norm.scale[...]
        norm.scale.set_value(jnp.where(few, np.sqrt(norm.eps), 1).astype(scale.dtype) * scale)


def calibrate(model: nnx.Module, images: np.ndarray) -> None:
    """Sets every BatchNorm to scale 1, bias 0, and the statistics of a batch of images."""
    norms = [m for _, m in nnx.iter_modules(model) if isinstance(m, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.scale[...] = jnp.ones_like(norm.scale[...])
        norm.bias[...] = jnp.zeros_like(norm.bias[...])
        norm.momentum = 0.0
    model.train()
    _, stats = run(model, lambda m, x: m(x, rngs=nnx.Rngs(dropout=0)), images)
    nnx.update(model, stats)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def run(model: nnx.Module, call: Callable, *args: Any) -> tuple[Any, dict[str, Any]]:
    """Compiles and runs `call(model, *args)`.

    Returns:
        The result of `call`, and BatchNorm's statistics after it as nested dictionaries.
    """
    graphdef, state = nnx.split(model)

    @jax.jit
    def compiled(state, *args):
        merged = nnx.merge(graphdef, state)
        return call(merged, *args), nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

    return compiled(nnx.to_pure_dict(state), *args)


def random_images(
    model: nnx.Module, dtype: str, size: tuple[int, int], n: int = 2, seed: int = 0
) -> np.ndarray:
    """Returns images [n, h, w, c] of standard normal noise.

    `model` determines the number of channels; `size` is the height and width.
    """
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *size, model.in_channels)).astype(dtype)


def to_numpy(tensor: Any) -> np.ndarray:
    """Returns a PyTorch tensor as a NumPy array; feature maps become [n, h, w, c]."""
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def compare(
    ours: Any,
    theirs: Any,
    dtype: str,
    what: str,
    scale: float | None = None,
) -> None:
    """Asserts that two arrays have a dtype, and are equal within the tolerance of this dtype.

    The tolerance is relative to `scale`, by default the largest absolute value of `theirs`. `what`
    names the arrays in errors. `theirs` may be a PyTorch tensor, which `to_numpy` converts.
    """
    ours = np.asarray(ours)
    theirs = to_numpy(theirs) if hasattr(theirs, "detach") else np.asarray(theirs)
    assert ours.dtype == theirs.dtype == dtype, (what, ours.dtype, theirs.dtype)
    assert ours.shape == theirs.shape, (what, ours.shape, theirs.shape)
    scale = scale or max(np.abs(theirs).max(), np.finfo(dtype).tiny)
    error = np.abs(ours - theirs).max() / scale
    assert error <= TOLERANCE[dtype], f"{what}: relative difference {error:.2e}"


def named_leaves(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a state or gradient with the PyTorch twin's names and axis order.

    `state` is a nested dictionary; the result is flat, such as {"Conv2d_1a_3x3.conv.weight": ...}.
    """
    return {
        torch_names.torch_name(path): torch_names.to_torch_order(path, np.asarray(leaf))
        for path, leaf in torch_names.walk(dict(state))
    }

"""The names of networks and of published weights, and the options that each of them needs."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inception_jax import words
from reference_torch import weights as weight_files

Tags = Mapping[str, Mapping[str, Any]]

_MODELS: dict[str, tuple[type[nn.Module], Mapping[str, Any]]] = {}


class UnknownModelError(KeyError):
    """No network or tag has this name."""

    def __str__(self) -> str:
        return str(self.args[0])


def register(arch: str, model_class: type[nn.Module], tags: Tags) -> None:
    """Registers a network's class as `arch.tag` for each tag, with the tag's options.

    The tag "" is the recommended variant. Its name is `arch`.
    """
    for tag, options in tags.items():
        _MODELS[f"{arch}.{tag}" if tag else arch] = (model_class, options)


def list_models(pattern: str = "*", *, tags: bool = False) -> list[str]:
    """Returns the sorted names of the networks that match a shell pattern.

    Args:
        pattern: shell pattern of names, such as "inception_v*".
        tags: if true, return names with a tag, `arch.tag`; if false, names without one, `arch`.
    """
    return sorted(
        name
        for name in _MODELS
        if ("." in name) == tags
        and (fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.partition(".")[0], pattern))
    )


def create_model(
    name: str,
    *,
    weights: Any = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    aux_heads: bool = False,
    width_multiplier: float = 1.0,
    dtype: torch.dtype = torch.float32,
    param_dtype: torch.dtype | None = None,
    **readings: Any,
) -> nn.Module:
    """Builds a network in evaluation mode, with the arguments of `inception_jax.create_model`.

    Args:
        name: `arch` or `arch.tag`, see `list_models`.
        weights: None for random parameters; the path of a file of `inception_jax.save_weights`, of
            the folder of a training run, or of a `.pth`, `.pt` or `.bin` file of this twin; or a
            state dict of tensors or NumPy arrays, such as `inception_jax.to_torch` returns.
        num_classes: number of classes; None for that of the tag, usually 1000. With 0, the network
            returns its pooled features.
        in_channels: number of channels of the images.
        aux_heads: whether to build auxiliary classifiers.
        width_multiplier: factor on every channel count.
        dtype: dtype of the parameters and of the computation.
        param_dtype: None or equal to `dtype`, because this twin computes in the dtype of its
            parameters.
        **readings: more options of the network's class. They override those of the tag.

    Raises:
        UnknownModelError: for an unknown name; the message suggests similar ones.
        RuntimeError: if the weights do not fit.
        TypeError: for an option that the network does not have.
        FileNotFoundError: if the weight file does not exist.
        ValueError: if `weights` asks for published weights, which this twin does not download; if
            the weight file is for another network; if the two dtypes differ (use `torch.autocast`
            to mix dtypes); if `aux_heads` is true for a network without auxiliary classifiers or
            without classes; if `num_classes` or `in_channels` is not an integer or is too small; if
            `width_multiplier` is not positive.
    """
    if name not in _MODELS:
        raise UnknownModelError(words.about_name(name, _MODELS))
    words.check_counts(1 if num_classes is None else num_classes, in_channels)
    if param_dtype not in (None, dtype):
        raise ValueError(f"dtype {dtype} and param_dtype {param_dtype} differ: use torch.autocast")
    model_class, options = _MODELS[name]
    own = inspect.signature(model_class).parameters
    for option in readings.keys() - own.keys():
        raise TypeError(words.about_option(option, name.partition(".")[0], {*own, "dtype"}))
    options = {"num_classes": 1000, **options, **readings}
    if num_classes is not None:
        options["num_classes"] = int(num_classes)
    if aux_heads:
        if "aux_heads" not in inspect.signature(model_class).parameters:
            raise ValueError(f"{name} has no auxiliary heads: leave aux_heads at False")
        if not options["num_classes"]:
            raise ValueError("auxiliary heads need classes: leave aux_heads at False")
        options["aux_heads"] = True
    model = model_class(in_channels=in_channels, width_multiplier=width_multiplier, **options)
    model.to(dtype)
    if weights is not None:
        defaults = {key: value.default for key, value in own.items()}
        sizes = dict(in_channels=in_channels, width_multiplier=width_multiplier)
        _load(model, weights, name, {**defaults, **options, **sizes})
    return model.eval()


def _load(model: nn.Module, weights: Any, name: str, options: Mapping[str, Any]) -> None:
    """Loads a state dict or a weight file into a network.

    The weights of classifiers are ignored if the network has no classes.

    Args:
        model: the network.
        weights: see `create_model`.
        name: name of the network, `arch` or `arch.tag`.
        options: options of the network, as in `weights.read`.
    """
    if not isinstance(weights, Mapping):
        hint = words.about_weights(weights, name, _MODELS)
        if weights is True or (hint is not None and not Path(weights).exists()):
            raise ValueError(
                f"weights={weights!r}: the twin fetches nothing; give a file, or "
                "inception_jax.to_torch(inception_jax.create_model(NAME, weights=True))"
            )
        weights = weight_files.read(weights, name, options)
    if not options["num_classes"]:
        heads = tuple(f"{path}." for path in (*model.classifiers, *model.aux_names))  # type: ignore[union-attr]
        weights = {key: value for key, value in weights.items() if not key.startswith(heads)}
    model.load_state_dict(weights)

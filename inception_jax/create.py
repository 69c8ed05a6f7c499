"""Builds networks. Only this module uses the registry, the models and their weights together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from inception_jax import classes, words
from inception_jax.building import build
from inception_jax.models import model_info
from inception_jax.nn.init import ONE_KEY
from inception_jax.nn.model import Model, Spec
from inception_jax.registry import SHARED_OPTIONS
from inception_jax.weights import files, fit, hub, timm_config
from inception_jax.weights.facts import warn_of_old_file
from inception_jax.weights.loading import load_weights
from inception_jax.weights.published import PUBLISHED
from inception_jax.weights.weight_file import Source, WeightFile, fitting, open_weights
from inception_jax.weights.weights_error import WeightsError

NO_HEAD: dict[str, Any] = dict(num_classes=0, aux_heads=False)
"""Arguments of `create_model` that ignore a file's classifier, so that the network returns pooled
features."""


def create_model(
    name: str,
    *,
    weights: Any = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    aux_heads: bool = False,
    width_multiplier: float = 1.0,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs | None = None,
    **readings: Any,
) -> Model:
    """Builds a network in evaluation mode.

    Args:
        name: `arch` or `arch.tag`, see `list_models`; or `hf-hub:owner/name` or `local-dir:PATH`,
            a network with its weights on the Hugging Face Hub or in a local folder, see `load`.
        weights: weights to load. None: random parameters. True: the tag's published file,
            downloaded once and cached. Otherwise any source that `load_weights` takes.
        num_classes: number of outputs. None: as many as the tag has. 0: no classifier; the network
            returns its pooled features [n, d].
        in_channels: number of channels of the images.
        aux_heads: whether to build the auxiliary classifiers. In training mode the network then
            returns their logits too.
        width_multiplier: factor for every channel count.
        dtype: dtype of the network's computations.
        param_dtype: dtype in which parameters are stored.
        rngs: random streams for the initial parameters; None: `nnx.Rngs(0)`. With weights, they
            are used only for a classifier that the weights lack.
        **readings: further options of the network's class. They override those of the tag.

    Raises:
        UnknownModelError: for an unknown name; the message suggests similar names.
        WeightsError: if the weights do not fit, or cannot be downloaded.
        TypeError: for an option that the network does not have.
        ValueError: if `aux_heads` is set for a network without auxiliary classifiers or without
            classes, or if `num_classes` or `in_channels` is not a valid integer.
    """
    if hub.is_source(name):
        given = dict(in_channels=in_channels, aux_heads=aux_heads, dtype=dtype, rngs=rngs,
                     width_multiplier=width_multiplier, param_dtype=param_dtype)  # fmt: skip
        return _from_source(name, weights, num_classes, {**given, **readings})
    info = model_info(name)
    if aux_heads and not info.aux_heads:
        raise ValueError(f"{info.arch} has no auxiliary heads: leave aux_heads at False")
    num_classes = info.num_classes if num_classes is None else num_classes
    words.check_counts(num_classes, in_channels)
    num_classes, in_channels = int(num_classes), int(in_channels)
    if aux_heads and not num_classes:
        raise ValueError("auxiliary heads need classes: leave aux_heads at False")
    for option in readings.keys() - info.options.keys():
        own = {*info.options, *SHARED_OPTIONS, "num_classes", "in_channels", "weights"}
        raise TypeError(words.about_option(option, info.arch, own))
    builder = functools.partial(
        build,
        name,
        num_classes,
        in_channels,
        aux_heads=aux_heads,
        width_multiplier=width_multiplier,
        dtype=dtype,
        param_dtype=param_dtype,
        **readings,
    )
    rngs = nnx.Rngs(0) if rngs is None else rngs
    return builder(rngs=rngs) if weights is None else _loaded(name, builder, rngs, weights)


def load(source: Any) -> Model:
    """Builds a network with weights, preprocessing and class names from one source.

    Args:
        source: path of a file that `save_weights` wrote; path of the folder of a training run,
            whose `weights.safetensors` is such a file; path of a folder that `save_pretrained` or
            timm wrote, which contains `model.safetensors`; or "hf-hub:owner/name", a repository of
            the Hugging Face Hub with the content of such a folder.

    Returns:
        A network in evaluation mode. `model.info` describes its preprocessing; values in the file
        override those of the tag. `model.classes` contains the names of its classes, or is None.

    Raises:
        WeightsError: if the source is damaged, or does not say which network it contains. In the
            second case the message lists the networks that fit.
        FileNotFoundError: if there is no such file or folder.
    """
    file, spec, path = _opened(source)
    if file.facts is None:
        warn_of_old_file(spec.name, path)
    return create_model(spec.name, weights=file, **_saved(spec))


def _opened(source: Any) -> tuple[WeightFile, Spec, Path]:
    """Reads a source of `load`; returns the weight file, the network's spec and the file's path.

    Raises:
        WeightsError: if the source does not say which network it contains.
    """
    path = hub.weights_in(hub.fetched(source))
    file = open_weights("", path)
    config = timm_config.find(path.parent) if file.spec is None and path.name == hub.MODEL else None
    if config is not None:
        file = timm_config.described(file, config, path.parent)
    if file.spec is None:
        fits = f" It fits {fitting(file.layout)}." if file.layout else ""
        raise WeightsError(
            f"{path} does not say which network it is.{fits} Name it: "
            f"create_model(NAME, weights={str(path)!r}), or --arch NAME"
        )
    return file, file.spec, path


def _from_source(name: str, weights: Any, num_classes: int | None, given: dict[str, Any]) -> Model:
    """Loads a network like `load`, with options that override those of the source.

    Args:
        name: source such as "hf-hub:owner/name" or "local-dir:PATH".
        weights: must be None or True, because the source has its own weights.
        num_classes: number of outputs; None: as many as the source has. For any other number, the
            classifier is replaced.
        given: the remaining arguments of `create_model`. Those that equal their defaults do not
            override the source.
    """
    if weights is not None and weights is not True:
        raise ValueError(f"{name} has its own weights: leave weights out, or load_weights later")
    words.check_counts(1 if num_classes is None else num_classes, given["in_channels"])
    file, spec, _ = _opened(name)
    usual = create_model.__kwdefaults__ or {}
    given = {k: v for k, v in given.items() if k not in usual or v != usual[k]}
    model = create_model(spec.name, weights=file, **{**_saved(spec), **given})
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes, given.get("rngs"))
    return model


def abstract_model(name: str, **options: Any) -> Model:
    """Builds a network whose parameters have shapes and dtypes but no values.

    This takes a second or less.

    Args:
        name: see `create_model`.
        **options: options of `create_model`.

    Raises:
        UnknownModelError: for an unknown name; the message suggests similar ones.
    """
    return nnx.eval_shape(lambda: create_model(name, rngs=ONE_KEY, **options))


def _loaded(name: str, builder: Callable[..., Model], rngs: nnx.Rngs, weights: Any) -> Model:
    """Builds a network with `builder`, which takes `rngs`, and loads weights into it.

    Drawing random parameters takes long, so they are drawn only if the file lacks the classifier.
    """
    file = open_weights(name, _fetchable(name, weights))
    model = nnx.eval_shape(lambda: builder(rngs=ONE_KEY))
    if model.num_classes and file.lacks_head(model):
        model = builder(rngs=rngs)  # its random classifier is kept, because the file has none
    load_weights(model, file)
    if file.spec is None and model.spec and model.spec.num_classes == 1000:
        model.classes = classes.of_published(name)
    return model


def _fetchable(name: str, weights: Any) -> Any:
    """Returns `weights`; for a source on the Hugging Face Hub, the path of the downloaded file.

    Raises:
        WeightsError: if `weights` is another library's word for published weights, and there is no
            file of that name. The message states the value to use in this library.
    """
    if isinstance(weights, Mapping | WeightFile | bool) or files.exists(Path(str(weights))):
        return weights
    hint = words.about_weights(weights, name, PUBLISHED)
    if hint is not None:
        raise WeightsError(hint)
    return hub.weights_in(hub.fetched(weights)) if hub.is_source(str(weights)) else weights


def model_of(name: str | None, source: Source | None, **options: Any) -> Model:
    """Builds a network with weights from a name, from a file that names its network, or from both.

    A name alone stands for its published weights.

    Args:
        name: see `create_model`.
        source: see `load` and `load_weights`.
        **options: options of `create_model`. They override those of the file.

    Raises:
        ValueError: if neither a name nor a source is given.
        WeightsError, UnknownModelError, FileNotFoundError: see `load` and `model_for`.
    """
    if name is None and source is None:
        raise ValueError("name a weight file (--weights FILE), or a network's tag (--arch NAME)")
    if name is not None:
        return model_for(name, True if source is None else source, **options)
    if not options:
        return load(source)
    file, spec, _ = _opened(source)
    return create_model(spec.name, weights=file, **{**_saved(spec), **options})


def model_for(name: str, source: Source, **options: Any) -> Model:
    """Builds a network with the classes and auxiliary heads of a weight file, and loads the file.

    A file that `save_weights` wrote also sets the number of image channels, the width multiplier
    and, if the name has no tag, the options of the network's class.

    Args:
        name: see `create_model`.
        source: see `load_weights`.
        **options: options of `create_model`. They override those of the file.

    Raises:
        UnknownModelError: for an unknown name; the message suggests similar ones.
        WeightsError: if the weights do not fit, or cannot be read or fetched.
        FileNotFoundError: if there is no such file.
    """
    info = model_info(name)
    is_here = isinstance(source, Mapping | bool) or files.exists(Path(source))
    file = open_weights(name, source if is_here else hub.weights_in(hub.fetched(source)))
    if file.spec is not None and file.facts is None:
        warn_of_old_file(name, source)
    saved = dict(file.spec.readings) if file.spec else {}
    file.check(name, info.options if info.tag else {**info.options, **saved})
    found = _saved(file.spec) if file.spec else _found(name, file)
    return create_model(name, weights=file, **{**found, **options})


def _saved(spec: Spec) -> dict[str, Any]:
    """Returns the keyword arguments of `create_model` that a spec states, without the name."""
    options = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    readings = options.pop("readings")
    del options["name"]
    return {**options, **dict(readings)}


def _found(name: str, file: WeightFile) -> dict[str, Any]:
    """Returns the arguments of `create_model` that the tensors of a file without a spec imply."""
    has_aux = bool(model_info(name).aux_heads)
    skeleton = abstract_model(name, aux_heads=has_aux)
    tensors = file.to_twin(skeleton)
    bias = tensors.get(f"{skeleton.classifiers[0]}.bias")
    aux = tuple(f"{head}." for head in skeleton.aux_names)
    # People who replace the classifier often keep the auxiliary classifiers of the old classes.
    rows = {len(tensors[f"{x}.bias"]) for x in skeleton.classifiers if f"{x}.bias" in tensors}
    return {
        "aux_heads": has_aux and len(rows) == 1 and any(key.startswith(aux) for key in tensors),
        **({} if bias is None or bias.ndim != 1 else {"num_classes": len(bias)}),
        **fit.options(tensors, skeleton),
    }

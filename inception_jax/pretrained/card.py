"""Writes the text of a model card: a `README.md` with a header for the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import huggingface_hub

from inception_jax.certificate import Certificate, as_page
from inception_jax.nn.model import Model
from inception_jax.registry import model_info
from inception_jax.weights.weight_file import spec_of

MARK = "<!-- written by inception_jax: delete this line to keep your changes -->"

_METRICS = {"eval_top1": "Top-1 accuracy", "eval_top5": "Top-5 accuracy"}


def card_of(
    model: Model,
    repository: str,
    layout: str,
    license: str | None,
    certificate: Certificate | None = None,
) -> str:
    """Returns the text of a model card.

    Args:
        model: built by `create_model`.
        repository: place of the network, shown in the card: `owner/name` on the Hugging Face Hub,
            or the path of a folder.
        layout: layout of the weights, "inception_jax" or "timm".
        license: identifier of a licence, such as "apache-2.0"; None: the card states no licence.
        certificate: comparison of the network in JAX with its PyTorch twin, for the card's section
            "Certificate"; see `inception_jax.certificate`. None: the card lacks this section.
    """
    name = repository.rpartition("/")[2] or repository
    results = list(_results(model))
    header = huggingface_hub.ModelCardData(
        license=license,
        library_name="timm" if layout == "timm" else "inception_jax",
        pipeline_tag="image-classification" if model.num_classes else "image-feature-extraction",
        tags=["inception", "jax", "flax", *(["timm"] if layout == "timm" else [])],
        **({"model_name": name, "eval_results": results} if results else {}),
    )
    spec = spec_of(model)
    body = [
        f"# {name}",
        f"`{spec.name}`, "
        + (f"{spec.num_classes} classes" if spec.num_classes else "no classifier: pooled features")
        + ".",
        *_headline(model),
        "## Use",
        *_usage(model, repository, layout),
        *_classes(model),
        "## Network",
        _table(_network(model)),
        *_training(model),
        *([as_page(certificate, "## Certificate").rstrip()] if certificate else []),
        MARK,
    ]
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n"


def _results(model: Model) -> Iterator[huggingface_hub.EvalResult]:
    training = model.training or {}
    result = training.get("result") or {}
    for key in _METRICS:
        if isinstance(result.get(key), float | int):
            dataset = str(training.get("dataset", "unknown"))
            yield huggingface_hub.EvalResult(
                task_type="image-classification",
                dataset_type=dataset,
                dataset_name=dataset,
                metric_type="accuracy",
                metric_name=_METRICS[key],
                metric_value=result[key],
            )


def _headline(model: Model) -> Iterator[str]:
    result = (model.training or {}).get("result") or {}
    shares = [f"{_METRICS[key]} {result[key]:.2%}" for key in _METRICS if key in result]
    if shares:
        count = result.get("eval_examples")
        yield f"**{', '.join(shares)}**" + (f" on {count:,} test images." if count else ".")


def _usage(model: Model, repository: str, layout: str) -> Iterator[str]:
    source = repository if repository.startswith(("/", ".")) else f"hf-hub:{repository}"
    call = 'model(ij.preprocess(model, "photo.jpg"))'
    if model.num_classes:
        call = 'ij.classify(model, "photo.jpg")'
    load = f"model = ij.load({json.dumps(source)})"
    yield f"```python\nimport inception_jax as ij\n\n{load}\n{call}\n```"
    if layout == "timm":
        timm = source if source.startswith("hf-hub:") else f"local-dir:{source}"
        yield (
            f"```python\nimport timm\n\n"
            f"model = timm.create_model({json.dumps(timm)}, pretrained=True)\n"
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"
            "\n```"
        )


def _classes(model: Model) -> Iterator[str]:
    if not model.classes:
        return
    yield f"## Classes\n\n{', '.join(model.classes[:20])}" + (
        f" and {len(model.classes) - 20} more" if len(model.classes) > 20 else ""
    )


def _network(model: Model) -> Iterator[tuple[str, Any]]:
    spec, info = spec_of(model), model.info
    yield "network", f"`{spec.name}`"
    yield "width", spec.width_multiplier
    yield "paper", info.paper
    yield "images", f"{info.input_size}x{info.input_size}, {spec.in_channels} channel(s)"
    yield "crop", f"{info.crop}, {info.crop_pct:g}, {info.interpolation}"
    yield "pixels", f"of [0, {info.input_range}]"
    yield "mean, deviation", f"{list(info.mean)}, {list(info.std)}"
    yield "EXIF orientation", "applied" if info.upright else "ignored"
    published = model_info(spec.name).options
    other = {k: v for k, v in spec.readings if k in published and published[k] != v}
    if other:
        yield "options", ", ".join(f"`{key}={value!r}`" for key, value in other.items())


def _training(model: Model) -> Iterator[str]:
    training = model.training
    if not training:
        return
    yield "## Training"
    rows = {key: training[key] for key in training if not isinstance(training[key], Mapping)}
    for key in training:
        if isinstance(training[key], Mapping):
            rows |= {k: v for k, v in training[key].items() if not isinstance(v, Mapping | tuple)}
    yield _table((key.replace("_", " "), value) for key, value in rows.items())


def _table(rows: Iterator[tuple[str, Any]] | Any) -> str:
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")

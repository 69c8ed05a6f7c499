"""Writes a network as a folder for the Hugging Face Hub, and uploads it."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from flax import nnx

from inception_jax.nn.layers import IMAGENET_MEAN, IMAGENET_STD
from inception_jax.nn.model import Model
from inception_jax.outputs import atomic_write
from inception_jax.weights import layouts, other_formats, timm_config
from inception_jax.weights.facts import Facts
from inception_jax.weights.hub import MODEL
from inception_jax.weights.saving import save_weights
from inception_jax.weights.weight_file import spec_of
from inception_jax.weights.weights_error import WeightsError, optional_library

if TYPE_CHECKING:
    from inception_jax.certificate import Certificate

FolderLayout = Literal["inception_jax", "timm"]

CONFIG, CARD = "config.json", "README.md"


def save_pretrained(
    model: Model,
    folder: str | os.PathLike[str],
    layout: FolderLayout = "inception_jax",
    *,
    repository: str | None = None,
    license: str | None = None,
    certificate: bool = False,
) -> None:
    """Writes a folder with `model.safetensors`, `config.json` and a model card, `README.md`.

    `load` reads the folder, and the Hugging Face Hub can store it. A card ends with the line
    `<!-- written by inception_jax: ... -->`. An existing card is overwritten if it still has this
    line. To keep your changes to a card, delete the line; a warning then says that the card was
    kept.

    Args:
        model: built by `create_model`.
        folder: path of the folder, created if missing.
        layout: "inception_jax", or "timm" for a folder that `timm.create_model("local-dir:...")`
            can also load, with the same logits.
        repository: `owner/name` on the Hub, shown in the card; None: the folder's path is shown.
        license: identifier of a licence for the card, such as "apache-2.0".
        certificate: add a certificate to the card: a section that states how far the network and
            its PyTorch twin differ with these weights; see `inception-jax certify`. This needs
            torch and takes a minute or more.

    Raises:
        ValueError: for an unknown layout, or if `folder` is a file.
        WeightsError: if the model was not built by `create_model`; if timm does not have the
            network or would compute different results; if torch is missing for a certificate.
        OSError: if the folder cannot be written.
    """
    from inception_jax.pretrained.card import MARK, card_of  # imports the Hub's package

    if layout not in get_args(FolderLayout):
        raise ValueError(f"layout must be one of {', '.join(get_args(FolderLayout))}: {layout!r}")
    spec_of(model)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    card_of(model, repository or _as_path(folder), layout, license)  # an error here, before writing
    if certificate:
        optional_library("torch", folder / MODEL)
    described = model
    if layout == "timm":
        model, config = _for_timm(model)
    else:
        config = _config(model)
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "timm":
        other_formats.save_as(model, folder / MODEL, to="timm")
    else:
        save_weights(model, folder / MODEL)
    _write(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    path = folder / CARD
    if path.exists() and MARK not in path.read_text(encoding="utf-8"):
        warnings.warn(f"{path} was changed by hand and is kept as it is", stacklevel=2)
        return
    found = _certificate(folder) if certificate else None
    _write(path, card_of(described, repository or _as_path(folder), layout, license, found))


def _certificate(folder: Path) -> Certificate:
    """Returns a certificate: how far the network in a folder and its PyTorch twin differ.

    The feature maps and the logits of images of smooth noise are compared.
    """
    from inception_jax.certificate import certify_model
    from inception_jax.create import load  # imports this package

    return certify_model(load(folder), folder / MODEL)


def push_to_hub(
    model: Model,
    repository: str,
    layout: FolderLayout = "inception_jax",
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Add the network",
    license: str | None = None,
    certificate: bool = False,
) -> str:
    """Uploads a network to the Hugging Face Hub, as the folder that `save_pretrained` writes.

    A missing repository is created. An existing model card is kept.

    Args:
        model: built by `create_model`.
        repository: `owner/name` on the Hub.
        layout: see `save_pretrained`.
        private: make a new repository private; None: the owner's default.
        token: access token; None: the token of `hf auth login`, or `$HF_TOKEN`.
        revision: branch to write to; None: main.
        message: commit message.
        license: see `save_pretrained`.
        certificate: see `save_pretrained`.

    Returns:
        URL of the commit.

    Raises:
        WeightsError, ValueError: see `save_pretrained`; raised before the upload.
        huggingface_hub.errors.HfHubHTTPError: if the Hub rejects the upload.
    """
    import huggingface_hub

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(
            model, folder, layout, repository=repository, license=license, certificate=certificate
        )
        api = huggingface_hub.HfApi(token=token)
        repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
        has_card = api.file_exists(repository, CARD, revision=revision)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            ignore_patterns=[CARD] if has_card else None,
        )
    return str(commit)


def _config(model: Model) -> dict[str, Any]:
    """Returns the content of `config.json`, as a dict.

    The file is for people and for the search of the Hugging Face Hub. The weight file contains all
    of this too.
    """
    said = {**dataclasses.asdict(spec_of(model)), **dataclasses.asdict(Facts.of(model))}
    said["readings"] = dict(said["readings"])
    return {"library": "inception_jax", "architecture_name": said.pop("name"), **said}


def _for_timm(model: Model) -> tuple[Model, dict[str, Any]]:
    """Returns a copy of the network that timm can load, and timm's `config.json` as a dict.

    The copy has no auxiliary classifiers, and its `transform_input` is False.
    """
    spec, notes = spec_of(model), []
    arch = spec.name.partition(".")[0]
    layout = layouts.for_writing("timm", arch)
    if layout is None:
        known = ", ".join(x for x in layouts.archs_of("timm"))
        raise WeightsError(f"timm has no {arch}; of this family it has {known}")
    model = nnx.clone(model)
    if spec.aux_heads:
        notes.append("the auxiliary classifier is left out: timm's folders have none")
        for name in model.aux_names:
            setattr(model, name, nnx.data(None))
        model.spec = dataclasses.replace(spec, aux_heads=False)
    if model.transform_input:
        _take_inception_range(model)
        notes.append(
            "timm's network takes images in [-1, 1], as its configuration says, and does not map "
            "ImageNet-normalised ones itself"
        )
    other_formats.check_layout(model, "timm")
    config, more = timm_config.config_of(model, layout)
    for note in notes + more:
        warnings.warn(note, stacklevel=3)
    return model, config


def _take_inception_range(model: Model) -> None:
    """Sets `transform_input` to False, and changes the preprocessing so that the logits stay equal.

    With `transform_input`, the network multiplies normalised pixels (p - mean) / std by S / 0.5 and
    adds (M - 0.5) / 0.5, with ImageNet's mean M and standard deviation S. This equals
    (p - mean') / std' with another mean' and std', which replace those in `model.info`.
    """
    spec, info = spec_of(model), model.info
    readings = {**dict(spec.readings), "transform_input": False}
    factors = [s / S for s, S in zip(info.std, IMAGENET_STD, strict=True)]
    std = tuple(0.5 * factor for factor in factors)
    mean = tuple(
        m - (M - 0.5) * factor
        for m, M, factor in zip(info.mean, IMAGENET_MEAN, factors, strict=True)
    )
    model.transform_input = False
    model.spec = dataclasses.replace(spec, readings=tuple(sorted(readings.items())))
    model.info = dataclasses.replace(
        info, mean=tuple(round(x, 12) for x in mean), std=tuple(round(x, 12) for x in std)
    )


def _as_path(folder: Path) -> str:
    text = folder.as_posix()
    return text if text.startswith(("/", ".")) else f"./{text}"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")

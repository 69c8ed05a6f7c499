"""Finds a network's weight file in the folder of a training run, or on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inception_jax.weights import files
from inception_jax.weights.weights_error import WeightsError

RUN_WEIGHTS = "weights.safetensors"
MODEL = "model.safetensors"
_HUB = ("hf-hub:", "hf_hub:")
_FOLDER = "local-dir:"


def is_source(name: str) -> bool:
    """Returns whether a name refers to a repository of the Hugging Face Hub or to a folder."""
    return name.startswith((*_HUB, _FOLDER))


def fetched(source: Any) -> Path:
    """Returns the local path of a source. A repository of the Hugging Face Hub is downloaded once.

    Args:
        source: path, `local-dir:PATH`, `hf-hub:owner/name` or `hf-hub:owner/name@revision`.

    Raises:
        FileNotFoundError: if there is no such file, folder or repository.
        WeightsError: if the repository cannot be downloaded.
    """
    text = str(source)
    if text.startswith(_HUB):
        return _from_hub(text, *text.partition(":")[2].partition("@")[::2])
    path = Path(text.removeprefix(_FOLDER))
    if not files.exists(path):
        raise FileNotFoundError(f"no such file or folder: {path}")
    return path


def _from_hub(source: str, repository: str, revision: str) -> Path:
    import huggingface_hub  # takes half a second, and only this function needs it
    from huggingface_hub import errors

    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=["config.json", MODEL]
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(f"the hub has no {source}: {reason}") from None
    except errors.HFValidationError as error:
        raise WeightsError(f"{source}: {error}; it is hf-hub:owner/name") from None
    except Exception as error:  # HTTP errors have no base class in huggingface_hub
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"cannot fetch {source} ({type(error).__name__}: {reason}); download the repository by "
            "other means and give its folder"
        ) from None
    return Path(folder)


def weights_in(path: Path) -> Path:
    """Returns the path of the weight file in a folder.

    The file is `weights.safetensors` in the folder of a training run, or `model.safetensors` in a
    repository of the Hugging Face Hub. A path that is not a folder is returned unchanged.

    Raises:
        FileNotFoundError: if a folder has neither file.
    """
    if not path.is_dir():
        return path
    for name in (RUN_WEIGHTS, MODEL):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path} holds neither {RUN_WEIGHTS} nor {MODEL}")

"""Folders that hold a network: a run's, and the Hugging Face hub's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RUN_WEIGHTS = "weights.safetensors"
MODEL = "model.safetensors"
_HUB = "hf-hub:"


def fetched(source: Any) -> Path:
    """Returns a path of this machine; a repository of the hub is fetched, once.

    Raises:
        FileNotFoundError: if there is no such file, folder or repository.
    """
    text = str(source)
    if text.startswith(_HUB):
        import huggingface_hub  # half a second, for this alone

        files = ["config.json", MODEL]
        return Path(huggingface_hub.snapshot_download(text[len(_HUB) :], allow_patterns=files))
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    return path


def weights_in(path: Path) -> Path:
    """Returns the weight file of a run's or a hub's folder; a file is itself.

    Raises:
        FileNotFoundError: if a folder has none.
    """
    if not path.is_dir():
        return path
    for name in (RUN_WEIGHTS, MODEL):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path} holds neither {RUN_WEIGHTS} nor {MODEL}")

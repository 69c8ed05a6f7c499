"""Downloads published weight files into the user's cache, each file once."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from inception_jax.outputs import atomic_write
from inception_jax.registry import list_models, model_info
from inception_jax.weights.published import PUBLISHED, Published
from inception_jax.weights.weights_error import WeightsError

_HUB_FILE = "model.safetensors"


def fetch(name: str) -> Path:
    """Returns the path of a network's published weight file; downloads it if it is not cached.

    Files from the Hugging Face Hub are in the Hub's own cache, all others in `cache_folder()`. A
    cached file needs no network connection. The file's checksum, if known, is verified at each
    call.

    Args:
        name: name of the network with its tag, such as "inception_v3.tv_in1k".

    Raises:
        WeightsError: if nothing is published under this name, the file cannot be downloaded, or its
            checksum is wrong.
    """
    published = PUBLISHED.get(name)
    if published is None:
        raise WeightsError(_nothing_published(name))
    if published.address.startswith("hf:"):
        return _from_hub(name, published.address.removeprefix("hf:"))
    return _from_address(name, published)


def cache_folder() -> Path:
    """Returns `$INCEPTION_JAX_CACHE`, or a folder in the system's default place for caches."""
    import pooch

    return Path(os.environ.get("INCEPTION_JAX_CACHE") or pooch.os_cache("inception_jax"))


def _nothing_published(name: str) -> str:
    arch = model_info(name).arch
    tags = [tag for tag in list_models(f"{arch}.*", tags=True) if tag in PUBLISHED]
    if not tags:
        return f"no weights of {arch} were ever published: give the path of your own"
    return f"{name} names no published weights; {arch} has {', '.join(tags)}"


def _from_address(name: str, published: Published) -> Path:
    import pooch

    folder = cache_folder()
    path = folder / published.address.rpartition("/")[2]
    if path.is_file():
        _compare(path, published.checksum)
        return path
    fetcher = pooch.HTTPDownloader(progressbar=True, timeout=30)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            fetcher(published.address, os.fspath(partial), None)  # type: ignore[arg-type]
            _compare(partial, published.checksum)
    except WeightsError:
        raise
    except (OSError, ValueError) as error:  # includes the errors of requests
        raise _cannot_fetch(name, published.address, path, error) from None
    return path


def _from_hub(name: str, repository: str) -> Path:
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repository, _HUB_FILE)
    if isinstance(cached, str):
        return _checked_hub(cached)
    # Offline, the Hub's client logs each of its retries.
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return _checked_hub(huggingface_hub.hf_hub_download(repository, _HUB_FILE))
    except WeightsError:
        raise
    except Exception as error:  # HTTP errors have no base class in huggingface_hub
        address = huggingface_hub.hf_hub_url(repository, _HUB_FILE)
        raise _cannot_fetch(name, address, None, error) from None
    finally:
        logger.setLevel(level)


def _checked_hub(path: str) -> Path:
    """Verifies a file in the Hugging Face Hub's cache, and returns its path.

    The Hub's cache names large files by their SHA-256. Small files are not verified.

    Raises:
        WeightsError: if the file does not have this SHA-256.
    """
    digest = Path(path).resolve().name
    if len(digest) == 64:
        _compare(Path(path), f"sha256:{digest}")
    return Path(path)


def _compare(path: Path, checksum: str) -> None:
    algorithm, _, expected = checksum.partition(":")
    if not expected:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if not found.startswith(expected):
        raise WeightsError(
            f"{path} has the {algorithm} {found}, but its publisher's has {expected}: it is "
            "damaged or another file; delete it and try again"
        )


def _cannot_fetch(name: str, address: str, path: Path | None, error: Exception) -> WeightsError:
    place = f"save it as {path}, or " if path else ""
    reason = str(error).partition("\n")[0]
    return WeightsError(
        f"cannot fetch the weights of {name} ({type(error).__name__}: {reason}); "
        f"download {address} by hand and {place}give weights=PATH"
    )

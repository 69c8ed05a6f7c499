"""Tests downloads of published files from a local server."""

from __future__ import annotations

import functools
import gc
import hashlib
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest

import inception_jax as ij
from inception_jax.weights import download, published
from inception_jax.weights.published import PUBLISHED, Published

# Pooch leaves the connection of a failed request to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = {"num_classes": 10, "width_multiplier": 0.05}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; adds the headers of the Hugging Face Hub to files in `/timm/`."""

    requests: list[str] = []  # noqa: RUF012  # shared, because a handler lives for one request

    def log_message(self, *_) -> None:
        self.requests.append(f"{self.command} {self.path}")

    def end_headers(self) -> None:
        file = Path(self.translate_path(self.path))
        if self.path.startswith("/timm/") and file.is_file():
            content = file.read_bytes()
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        super().end_headers()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves `tmp_path/web`, also in place of the Hugging Face Hub; yields the server's URL.

    Downloads are cached in `tmp_path`.
    """
    (tmp_path / "web").mkdir()
    handler = functools.partial(Handler, directory=str(tmp_path / "web"))
    Handler.requests.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("INCEPTION_JAX_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        address = f"http://127.0.0.1:{running.server_port}"
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield address
        running.shutdown()
    gc.collect()  # so that warnings of unclosed connections appear here


@pytest.fixture
def model(server, tmp_path, monkeypatch):
    """Returns a network whose weights are served as a plain file and as a Hugging Face Hub file."""
    model = ij.create_model("xception.keras_in1k", **SMALL)
    folder = tmp_path / "web/timm/xception.keras_in1k/resolve/main"
    folder.mkdir(parents=True)
    for path in (tmp_path / "web/x.safetensors", folder / "model.safetensors"):
        ij.save_weights(model, path)
    return model


def publish(monkeypatch, address: str, checksum: str = "") -> None:
    monkeypatch.setitem(PUBLISHED, "xception.keras_in1k", Published(address, checksum))


def load():
    return ij.create_model("xception.keras_in1k", weights=True, **SMALL)


def same(a, b) -> bool:
    return np.array_equal(a.fc.kernel[...], b.fc.kernel[...])


def test_an_address_once_and_then_the_cache(server, model, tmp_path, monkeypatch, capsys):
    digest = hashlib.sha256((tmp_path / "web/x.safetensors").read_bytes()).hexdigest()
    for checksum in (f"sha256:{digest}", f"sha256:{digest[:8]}", ""):
        publish(monkeypatch, f"{server}/x.safetensors", checksum)
        assert same(load(), model)
    assert Handler.requests == ["GET /x.safetensors"]
    assert "100%" in capsys.readouterr().err  # progress
    other = ij.create_model("xception.keras_in1k", **SMALL)
    ij.load_weights(other, True)
    assert same(other, model)


def test_a_wrong_checksum(server, model, tmp_path, monkeypatch):
    publish(monkeypatch, f"{server}/x.safetensors", "sha256:00000000")
    with pytest.raises(ij.WeightsError, match="00000000"):
        load()
    assert not list((tmp_path / "cache").iterdir())
    # A file in the cache was damaged later.
    publish(monkeypatch, f"{server}/x.safetensors", "md5:1234")
    (tmp_path / "cache/x.safetensors").write_text("rotten")
    with pytest.raises(ij.WeightsError, match=r"x\.safetensors has the md5.*delete it"):
        load()


@pytest.mark.parametrize("address", ["{server}/absent.safetensors", "http://127.0.0.1:1/x.h5"])
def test_without_the_file_or_a_network(server, tmp_path, monkeypatch, address):
    address = address.format(server=server)
    publish(monkeypatch, address)
    with pytest.raises(ij.WeightsError) as error:
        load()
    assert "\n" not in str(error.value)
    place = tmp_path / "cache" / address.rpartition("/")[2]
    assert f"download {address} by hand and save it as {place}" in str(error.value)
    assert not list((tmp_path / "cache").iterdir())


def test_the_hub(server, model, tmp_path, monkeypatch):
    publish(monkeypatch, "hf:timm/xception.keras_in1k")
    assert same(load(), model)
    fetched = len(Handler.requests)
    assert fetched
    assert same(load(), model)
    assert len(Handler.requests) == fetched  # the second time from the cache
    [blob] = (tmp_path / "hub").rglob("blobs/*")
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    with pytest.raises(ij.WeightsError, match="sha256"):
        load()


def test_the_hub_without_the_file(server, monkeypatch, capsys):
    publish(monkeypatch, "hf:timm/absent")
    with pytest.raises(ij.WeightsError, match=r"download http.*timm/absent.* by hand") as error:
        load()
    assert "\n" not in str(error.value)
    assert "Retrying" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("inception_v2", "no weights of inception_v2 were ever published"),
        ("inception_v4", "inception_v4.cadene_in1k, inception_v4.slim_in1k, inception_v4.tf_in1k"),
        ("inception_resnet_v2.paper", "inception_resnet_v2.keras_in1k"),
    ],
)
def test_names_without_published_weights(name, words):
    with pytest.raises(ij.WeightsError, match=words):
        ij.create_model(name, weights=True)


def test_every_tag_with_weights_has_a_file():
    without = {
        "inception_v2.blog",
        "inception_v2.paper",
        "inception_resnet_v1.paper",
        "inception_resnet_v2.paper",
    }
    assert set(ij.list_models(tags=True)) - without == set(PUBLISHED)
    lengths = {"sha256": 64, "md5": 32}
    for file in published.PUBLISHED.values():
        algorithm, _, digits = file.checksum.partition(":")
        # The whole checksum, or the start of it from the file's name.
        assert not digits or len(digits) == lengths[algorithm] or f"-{digits}." in file.address
    assert download.cache_folder().name == "inception_jax"

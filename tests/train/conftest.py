from __future__ import annotations

import gc
import signal
import sys

import pytest

from tests.helpers import tiny
from train.report import plots


@pytest.fixture
def with_tiny():
    with tiny.registered():
        yield


@pytest.fixture
def pictures():
    """Drawn as they are; without this fixture `train_here` leaves them empty."""


def _empty(figure, path, **options):
    path.write_bytes(b"")
    plots.plt.close(figure)


@pytest.fixture
def train_here(with_tiny, monkeypatch, capsys, tmp_path, request):
    """Runs the programme in this process and an empty folder.

    Returns exit code, standard output and error. It saves what a process of its own takes most of
    its time for: imports. Pictures, half of the rest, are drawn only with the fixture `pictures`.
    """
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(plots, "_save", _empty)
    from train.dispatch import main

    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train/main.py", "--no-compile-cache", *options])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, handler)
    gc.unfreeze()

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
    """Makes `train_here` draw the plots of a run; without this fixture, plot files are empty."""


def _empty(figure, path, **options):
    path.write_bytes(b"")
    plots.plt.close(figure)


@pytest.fixture
def train_here(with_tiny, monkeypatch, capsys, tmp_path, request):
    """Returns a function that runs the training programme in this process, in an empty folder.

    The function takes the options of the command line. It returns the exit code, the standard
    output and the standard error. It starts no new process, because imports would take most of the
    time. Plotting would take half of a run's time, so plot files are empty unless the test uses the
    fixture `pictures`.
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

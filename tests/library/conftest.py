"""Fixtures shared by the library's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def nothing_computed(monkeypatch):
    """Makes a test fail if it computes the features of an image."""
    from inception_jax import metrics

    def computed(*_):
        raise AssertionError("an image was computed")

    monkeypatch.setattr(metrics.Extractor, "_computed", computed)

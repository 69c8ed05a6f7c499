"""Checks the package's public names in an environment where only the wheel is installed.

This script needs neither the checkout nor pytest. Weights are random, so the script checks shapes,
names and a round trip through a file. The script also checks that PyTorch and the optional packages
are not needed.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
import tempfile

import jax
import numpy as np

import inception_jax as ij


def main() -> None:
    """Imports every public name, then builds, runs, saves and loads a narrow network."""
    assert "site-packages" in ij.__file__, f"not the installed package: {ij.__file__}"
    for module in ("inception_jax", "inception_jax.metrics", "inception_jax.drawing"):
        package = importlib.import_module(module)
        for name in package.__all__:
            getattr(package, name)
    assert "torch" not in sys.modules
    assert len(ij.list_models()) == 17

    model = ij.create_model("xception", num_classes=5, width_multiplier=0.125)
    photo = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    images = ij.preprocess(model, photo)
    logits = jax.jit(lambda images: model(images))(images)
    assert logits.shape == (1, 5)

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.safetensors"
        ij.save_weights(model, path)
        again = ij.load(path)
        np.testing.assert_array_equal(
            ij.to_torch(again)["fc.weight"], ij.to_torch(model)["fc.weight"]
        )
    print(f"inception_jax {ij.__version__}: the wheel works")


if __name__ == "__main__":
    main()

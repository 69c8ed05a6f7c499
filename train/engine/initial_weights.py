"""The weights that a run starts from."""

from __future__ import annotations

from pathlib import Path

import inception_jax as ij
from inception_jax.nn.model import Model
from inception_jax.weights.loading import unfit_heads
from inception_jax.weights.weight_file import open_weights, spec_of
from train.hosts import processes


def load_start(model: Model, path: Path) -> None:
    """Loads weights into a new network, except into heads that the file has no weights for.

    Those keep their random values, and a line says so: classifiers for another number of classes,
    and auxiliary heads that the file lacks.

    Args:
        model: built by `create_model`.
        path: what `load_weights` takes.

    Raises:
        WeightsError: if anything else does not fit.
    """
    file = open_weights(spec_of(model).name, path)
    unfit = unfit_heads(model, file)
    ij.load_weights(model, file, skip=unfit)
    if not processes.is_main():
        return
    absent = [name for name in unfit if name in model.aux_names]
    if len(absent) < len(unfit):
        print(f"{path} has no classifier of this size: it starts anew")
    if absent:
        print(f"{path} has no {' and '.join(absent)}: auxiliary classifiers start anew")

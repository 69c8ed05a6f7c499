"""The weights that a run starts from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flax import nnx

import inception_jax as ij
from inception_jax.nn.model import Model
from inception_jax.weights import leaves
from inception_jax.weights.content import Content
from inception_jax.weights.loading import open_source
from train.hosts import processes


def load_start(model: Model, path: Path) -> None:
    """Loads weights into a new network; classifiers that the file cannot fill start anew.

    They are those for another number of classes, and auxiliary ones that the file has not.

    Args:
        model: built by `create_model`.
        path: what `load_weights` takes.

    Raises:
        WeightsError: if anything else does not fit.
    """
    assert model.spec is not None
    content = open_source(model.spec.name, path)
    try:
        ij.load_weights(model, content)
        return
    except ij.WeightsError as error:
        failed = error
    absent = [name for name in model.aux_names if _is_missing(model, name, failed)]
    aux, heads = (tuple(f"{name}." for name in names) for names in (absent, model.classifiers))
    wrong = [
        name
        for name in (*failed.missing, *failed.misshapen, *failed.unexpected)
        if not name.startswith(aux)
    ]
    if not all(name.startswith(heads) for name in wrong) or not (wrong or absent):
        raise failed
    _load_without(model, absent, content, head=not wrong)
    if processes.is_main():
        if wrong:
            print(f"{path} has no classifier of this size: it starts anew")
        if absent:
            print(f"{path} has no {' and '.join(absent)}: auxiliary classifiers start anew")


def _is_missing(model: Model, head: str, error: ij.WeightsError) -> bool:
    """Says whether a file has nothing at all of an auxiliary classifier that the network has."""
    names = {name for name in leaves.torch_shapes(model) if name.startswith(f"{head}.")}
    return bool(names) and names <= set(error.missing)


def _load_without(model: Model, absent: Sequence[str], content: Content, *, head: bool) -> None:
    kept = {name: getattr(model, name) for name in absent}
    try:
        for name in absent:
            setattr(model, name, nnx.data(None))
        ij.load_weights(model, content, head=head)
    finally:
        for name, module in kept.items():
            setattr(model, name, module)

"""Parts of a run with a training step each: the classifier alone, then the whole network.

Both phases have the same state, so that checkpoints of either resume. The optimiser starts again
with the second: what it remembers of the first is of other gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from inception_jax.nn.model import Model
from train.engine.schedule import Schedule
from train.engine.step import Batch, Gradients, Loss, StepOptions, TrainState, Tree, update


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        start: its first step.
        rate: learning rate by step of the phase.
        step: maps a state and a batch to the next state and its metrics; to be compiled.
        note: what is trained, to be printed.
        begin: returns the state that the phase starts from.
    """

    start: int
    rate: Schedule
    step: Callable[..., Any]
    note: str = ""
    begin: Callable[[TrainState], TrainState] = lambda state: state


def classifiers(model: Model, params: Tree) -> Tree:
    """Marks the parameters of the classifiers in a network's parameters: a tree of bools."""
    paths = [tuple(name.split(".")) for name in model.classifiers]

    def marked(path: tuple[Any, ...], _: Any) -> bool:
        names = tuple(str(key.key) for key in path)
        return any(names[: len(own)] == own for own in paths)

    return jax.tree_util.tree_map_with_path(marked, params)


def with_frozen(loss: Loss, trained: Tree) -> Loss:
    """Returns a loss whose gradient is zero, and not computed, outside what is trained.

    Args:
        loss: of parameters and more.
        trained: bools in the tree of the parameters.
    """

    def frozen(params: Tree, *rest: Any) -> Any:
        return loss(jax.tree.map(_held, params, trained), *rest)

    return frozen


def make_head_step(
    gradients: Gradients, tx: optax.GradientTransformation, options: StepOptions, trained: Tree
) -> Callable[[TrainState, Batch], tuple[TrainState, Any]]:
    """Returns a training step that leaves what is not trained as it is, bit for bit.

    Args:
        gradients: of `with_frozen`, without new statistics.
        tx: the optimiser, of all parameters.
        options: of the step.
        trained: bools in the tree of the parameters.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        # Zeros for what is frozen: no weight decay of it, and no share in the gradient's norm.
        masked = jax.tree.map(lambda p, own: p if own else jnp.zeros_like(p), state.params, trained)
        return update(state, *gradients(state, batch), tx, options, seen=masked, trained=trained)

    return step


def restarted(
    tx: optax.GradientTransformation, sharding: Any
) -> Callable[[TrainState], TrainState]:
    """Returns a function that gives a state the optimiser's first state."""

    def begin(state: TrainState) -> TrainState:
        opt_state = jax.jit(tx.init, out_shardings=sharding)(state.params)
        return dataclasses.replace(state, opt_state=opt_state)

    return begin


def _held(parameter: jax.Array, trained: bool) -> jax.Array:
    return parameter if trained else lax.stop_gradient(parameter)

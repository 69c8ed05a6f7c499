"""Phases of a run, each with its own training step: first only the classifier, then the whole
network.

Both phases have the same kind of state, so a run can resume from checkpoints of either. The
optimiser state is reset for the second phase, because it belongs to other gradients.
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
    """A phase of a run.

    Attributes:
        start: its first step.
        rate: learning rate by step of the phase.
        step: maps a state and a batch to the next state and its metrics; to be compiled.
        note: line to print about what is trained.
        begin: converts a state to the first state of the phase.
    """

    start: int
    rate: Schedule
    step: Callable[..., Any]
    note: str = ""
    begin: Callable[[TrainState], TrainState] = lambda state: state


def classifiers(model: Model, params: Tree) -> Tree:
    """Returns a tree of bools that marks the classifiers among a network's parameters."""
    paths = [tuple(name.split(".")) for name in model.classifiers]

    def marked(path: tuple[Any, ...], _: Any) -> bool:
        names = tuple(str(key.key) for key in path)
        return any(names[: len(own)] == own for own in paths)

    return jax.tree_util.tree_map_with_path(marked, params)


def with_frozen(loss: Loss, trained: Tree) -> Loss:
    """Returns a loss with gradients only for trained parameters. Others get zero without
    computation.

    Args:
        loss: function of parameters and other arguments.
        trained: bools in the tree of the parameters.
    """

    def frozen(params: Tree, *rest: Any) -> Any:
        return loss(jax.tree.map(_held, params, trained), *rest)

    return frozen


def make_head_step(
    gradients: Gradients, tx: optax.GradientTransformation, options: StepOptions, trained: Tree
) -> Callable[[TrainState, Batch], tuple[TrainState, Any]]:
    """Returns a training step that does not change frozen parameters by a single bit.

    Args:
        gradients: from `with_frozen`, without new statistics.
        tx: the optimiser, for all parameters.
        options: of the step.
        trained: bools in the tree of the parameters.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        # Zeros for frozen parameters: no weight decay, and no contribution to the gradient's norm.
        masked = jax.tree.map(lambda p, own: p if own else jnp.zeros_like(p), state.params, trained)
        return update(state, *gradients(state, batch), tx, options, seen=masked, trained=trained)

    return step


def restarted(
    tx: optax.GradientTransformation, sharding: Any
) -> Callable[[TrainState], TrainState]:
    """Returns a function that resets the optimiser state."""

    def begin(state: TrainState) -> TrainState:
        opt_state = jax.jit(tx.init, out_shardings=sharding)(state.params)
        return dataclasses.replace(state, opt_state=opt_state)

    return begin


def _held(parameter: jax.Array, trained: bool) -> jax.Array:
    return parameter if trained else lax.stop_gradient(parameter)

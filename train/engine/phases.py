"""Phases of a run, each with its own training step.

With `head_epochs`, a run first trains only the classifier, and in a second phase the whole network.
Otherwise it has a single phase. The states of both phases have the same structure, so a run can
resume from checkpoints of either. The optimiser state is reset for the second phase, because the
first phase computed it from the classifier's gradients alone.
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
        start: first step of the phase.
        rate: function that maps a step, counted from `start`, to its learning rate.
        step: training step, not yet compiled: a function that maps a state and a batch to the next
            state and the metrics.
        note: line to print that says what is trained; empty for no line.
        begin: function that maps the state before the phase to the phase's first state. By
            default, the state stays as it is; `restarted` resets the optimiser state.
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
    """Returns a loss with gradients for the trained parameters only.

    The gradients of all other parameters are zero, and are not computed.

    Args:
        loss: function of the parameters and further arguments.
        trained: tree of bools with the structure of the parameters.
    """

    def frozen(params: Tree, *rest: Any) -> Any:
        return loss(jax.tree.map(_held, params, trained), *rest)

    return frozen


def make_head_step(
    gradients: Gradients, tx: optax.GradientTransformation, options: StepOptions, trained: Tree
) -> Callable[[TrainState, Batch], tuple[TrainState, Any]]:
    """Returns a training step that leaves the frozen parameters bitwise unchanged.

    Args:
        gradients: function from `make_gradients`, for a loss from `with_frozen` that returns no new
            statistics.
        tx: optimiser of all parameters.
        options: options of the step.
        trained: tree of bools with the structure of the parameters; False for frozen ones.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        # The optimiser sees zeros for frozen parameters, so that their weight decay adds nothing to
        # the gradient's norm.
        masked = jax.tree.map(lambda p, own: p if own else jnp.zeros_like(p), state.params, trained)
        return update(state, *gradients(state, batch), tx, options, seen=masked, trained=trained)

    return step


def restarted(
    tx: optax.GradientTransformation, sharding: Any
) -> Callable[[TrainState], TrainState]:
    """Returns a function that resets the optimiser state in a training state.

    Args:
        tx: the optimiser.
        sharding: sharding of the new optimiser state.
    """

    def begin(state: TrainState) -> TrainState:
        opt_state = jax.jit(tx.init, out_shardings=sharding)(state.params)
        return dataclasses.replace(state, opt_state=opt_state)

    return begin


def _held(parameter: jax.Array, trained: bool) -> jax.Array:
    return parameter if trained else lax.stop_gradient(parameter)

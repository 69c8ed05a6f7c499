"""Checkpoints: written whole or not at all, the newest readable one is taken."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from train.errors import TrainingError
from train.step import TrainState

_KEPT = 2


class Checkpoints:
    """The checkpoints of a workdir; a context manager.

    Args:
        workdir: folder in which `checkpoints/` is made.
        sharding: where restored arrays go.
    """

    def __init__(self, workdir: Path, sharding: Sharding):
        self._sharding = sharding
        self._checkpointer = ocp.training.Checkpointer(
            str((workdir / "checkpoints").absolute()),
            # Orbax's protocol and class disagree about a private type.
            preservation_policy=ocp.training.preservation_policies.LatestN(_KEPT),  # pyright: ignore
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    def save(self, state: TrainState) -> None:
        """Saves a state; returns when it is on disk."""
        step = int(state.step)
        if step in self._steps():
            return
        try:
            # The policy decides what is kept; when to save is the loop's decision.
            self._checkpointer.save(step, _as_dict(state), force=True)
        except Exception as error:  # a full disk reaches us as one of many types
            raise TrainingError(
                f"the checkpoint of step {step} could not be saved ({_reason(error)}); "
                "earlier ones are kept, and the same command goes on from them"
            ) from error

    def restore(self, like: TrainState) -> TrainState | None:
        """Returns the newest state that can be read, None if there is none."""
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding),
            _as_dict(like),
        )
        for step in sorted(self._steps(), reverse=True):
            try:
                return TrainState(**self._checkpointer.load(step, abstract))
            except Exception as error:  # orbax raises bare Exception for a damaged file
                print(
                    f"the checkpoint of step {step} cannot be read ({_reason(error)}); "
                    "trying the one before",
                    file=sys.stderr,
                )
        return None

    def _steps(self) -> list[int]:
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _as_dict(state: TrainState) -> dict[str, object]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}

"""Checkpoints: written whole or not at all, verified when read, the newest good one is taken."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from train.engine.step import TrainState
from train.errors import TrainingError
from train.hosts import processes

_CHECKSUMS = "crc32"


class Checkpoints:
    """The checkpoints of a workdir; a context manager.

    Orbax writes them beside the training and renames a finished one into place, but it restores a
    flipped bit as a wrong number without a word: so a checksum of every array goes with it.

    Args:
        workdir: folder in which `checkpoints/` is made.
        sharding: where restored arrays go.
        keep: newest ones that are kept, beside that with the best evaluation.
    """

    def __init__(self, workdir: Path, sharding: Sharding, keep: int):
        self._sharding = sharding
        self._folder = workdir.absolute() / "checkpoints"
        self._damaged = workdir.absolute() / "damaged_checkpoints"
        self._keep = keep
        self._writing: Any = None
        self._writing_step = 0
        self._checkpointer = self._open()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and jax.process_count() > 1:
            return  # saving and closing wait for the other processes, which may be lost
        if kind is None:
            self.wait()
        elif self._writing is not None:
            try:
                self.wait()
            except TrainingError as error:
                print(error, file=sys.stderr)  # beside the error that ends the run
        self._checkpointer.close()

    def save(self, state: TrainState, top1: float | None = None) -> None:
        """Starts to save a state; the state may be given away when this returns.

        Args:
            state: what to save, if its step is not saved yet.
            top1: accuracy of an evaluation at this step, by which the best is known.

        Raises:
            TrainingError: if this, or the save before it, fails.
        """
        step = int(state.step)
        self.wait()
        if step in self._steps():
            return
        tree = _as_dict(state)
        metadata: Any = {_CHECKSUMS: checksums(tree)}
        self._writing_step = step
        try:
            # The policy decides what is kept; when to save is the loop's decision.
            self._writing = self._checkpointer.save_async(
                step,
                tree,
                force=True,
                metrics=None if top1 is None else {"top1": top1},
                custom_metadata=metadata,
            )
        except Exception as error:  # a full disk reaches us as one of many types
            raise self._failure(error) from error

    def wait(self) -> None:
        """Returns when the last save is on disk.

        Raises:
            TrainingError: if it fails.
        """
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except Exception as error:
            raise self._failure(error) from error

    def restore(self, like: TrainState) -> TrainState | None:
        """Returns the newest state that is whole, None if there is none.

        What is not is said, and moved to `damaged_checkpoints/`.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding),
            _as_dict(like),
        )
        while steps := self._steps():
            step = max(steps)
            tree, reason = self._load(step, abstract)
            if processes.all_agree(tree is not None):
                return dataclasses.replace(like, **tree)
            if processes.is_main():
                print(
                    f"the checkpoint of step {step} cannot be read ({reason}); "
                    "trying the one before",
                    file=sys.stderr,
                )
            self._set_aside(step)
        return None

    def _open(self) -> ocp.training.Checkpointer:
        if processes.is_main():
            _drop_damaged_metrics(self._folder)
        processes.all_agree(True)
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics.get("top1", -1.0),
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        return ocp.training.Checkpointer(
            str(self._folder),
            # Orbax's protocol and classes disagree about a private type.
            preservation_policy=policies.AnyPreservationPolicy(  # pyright: ignore
                [policies.LatestN(self._keep), best]  # pyright: ignore
            ),
            cleanup_tmp_directories=True,
        )

    def _load(self, step: int, abstract: Mapping[str, Any]) -> tuple[Any, str]:
        """Returns the arrays of a step, or None and why not."""
        try:
            with _quiet():
                tree = self._checkpointer.load(step, abstract)
            metadata: Any = self._checkpointer.metadata(step).custom_metadata or {}
            stored = metadata.get(_CHECKSUMS)
        except Exception as error:  # orbax raises bare Exception for a damaged file
            return None, str(error).partition("\n")[0][:200]
        if not isinstance(stored, Mapping):
            return None, "its checksums are missing"
        found = checksums(tree)
        wrong = [name for name in found if found[name] != stored.get(name)]
        if wrong:
            return None, f"{len(wrong)} arrays are not what was saved, the first {wrong[0]}"
        return tree, ""

    def _set_aside(self, step: int) -> None:
        """Moves a step out of orbax's sight, so that the run can save it anew."""
        self._checkpointer.close()
        if processes.is_main():
            self._damaged.mkdir(exist_ok=True)
            shutil.rmtree(self._damaged / str(step), ignore_errors=True)
            shutil.move(self._folder / str(step), self._damaged / str(step))
        processes.all_agree(True)  # nobody looks before it is done
        self._checkpointer = self._open()

    def _failure(self, error: Exception) -> TrainingError:
        reason = str(error).partition("\n")[0][:200]
        return TrainingError(
            f"the checkpoint of step {self._writing_step} could not be saved ({reason}); "
            "earlier ones are kept, and the same command goes on from them"
        )

    def _steps(self) -> list[int]:
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the traces of every array's failed task to itself: one line says enough."""
    logger = logging.getLogger("asyncio")
    logger.disabled = True
    try:
        yield
    finally:
        gc.collect()  # a task speaks up when it is collected
        logger.disabled = False


def _drop_damaged_metrics(folder: Path) -> None:
    """Orbax reads the metrics of every step when it starts, and ends if one of them is damaged."""
    for path in folder.glob("*/metrics/metrics"):
        try:
            json.loads(path.read_text())
        except ValueError:
            print(f"{path} is damaged: this step cannot be the best any more", file=sys.stderr)
            path.unlink()


def checksums(tree: Any) -> dict[str, int]:
    """Returns the CRC-32 of every array's bytes, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    values = jax.device_get([leaf for _, leaf in leaves])
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(value).tobytes())
        for (path, _), value in zip(leaves, values, strict=True)
    }


def _as_dict(state: TrainState) -> dict[str, object]:
    return {name: value for name, value in vars(state).items() if value is not None}

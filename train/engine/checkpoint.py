"""Checkpoints: written atomically, and verified when read. The newest undamaged one is used."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from train import storage
from train.engine.step import TrainState
from train.errors import TrainingError, UsageError
from train.hosts import processes

_CHECKSUMS, _RUN, _RUN_CHECKSUM = "crc32", "run", "run_crc32"
_COMMITTED = "commit_success.txt"  # Orbax's marker of a complete checkpoint in a bucket
_SAVES_TO_TRY = 3  # in a bucket, where each save retries its requests for a minute
# Parts of error messages that mean a full disk.
_NO_SPACE = ("No space left", "Disk quota exceeded", "Errno 28")
_LOG = logging.getLogger("inception_jax.checkpoints")


class Checkpoints:
    """The checkpoints of a workdir; a context manager.

    Orbax writes checkpoints asynchronously. It renames a finished checkpoint into place, which is
    atomic. In a bucket, it adds a marker file to a finished checkpoint and renames nothing. Orbax
    does not notice a flipped bit when it restores a checkpoint, so checksums of all arrays are
    stored too.

    Args:
        workdir: folder in which `checkpoints/` is created.
        sharding: sharding of restored arrays.
        keep: number of newest checkpoints to keep, in addition to the best one.
        run: description of the run, stored in each checkpoint, see `train.workdir.identity`.
        read_only: write, move and delete nothing, because another process may be training.
    """

    def __init__(
        self,
        workdir: Path,
        sharding: Sharding,
        keep: int,
        *,
        run: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ):
        self._sharding = sharding
        self._folder = storage.absolute(workdir) / "checkpoints"
        self._damaged = storage.absolute(workdir) / "damaged_checkpoints"
        self._keep = keep
        self._run = dict(run or {})
        self._read_only = read_only
        self._writing: Any = None
        self._writing_step = 0
        self._failed = 0  # saves in a row, in a bucket
        self._checkpointer = self._open()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and jax.process_count() > 1:
            return  # saving and closing wait for the other processes, which may have ended
        ends = [self.wait, self._checkpointer.close]
        if kind is None:
            ends.pop(0)()
        for end in ends:
            try:
                end()
            except Exception as error:  # repeats the error of a failed save, or is a new one
                _LOG.warning("while the run ends: %s", error)

    def save(self, state: TrainState, top1: float | None = None, *, finish: bool = False) -> None:
        """Starts to save a state. When this returns, the state's buffers may be donated.

        In a bucket, a failed save does not end the run at once. If the failure is noticed before
        this method returns, the save is retried. Otherwise a warning is logged, and the next save
        replaces the failed one.

        Args:
            state: state to save. If its step is already saved, nothing happens.
            top1: accuracy of an evaluation at this step, which decides the best checkpoint; None
                if there was no evaluation.
            finish: wait until the state is saved.

        Raises:
            TrainingError: if this save or the previous one fails; in a bucket, only after three
                failures in a row.
        """
        step = int(state.step)
        self.wait()
        if step in self._steps():
            return
        saved = False
        while not saved:
            saved = self._start(state, step, top1) and (not finish or self.wait())

    def _start(self, state: TrainState, step: int, top1: float | None) -> bool:
        tree, error = _as_dict(state), None
        metadata: Any = {
            _CHECKSUMS: checksums(tree),
            _RUN: self._run,
            _RUN_CHECKSUM: crc(self._run),
        }
        self._writing_step = step
        try:
            # The policy decides what to keep; the loop decides when to save.
            self._writing = self._checkpointer.save_async(
                step,
                tree,
                force=True,
                metrics=None if top1 is None else {"top1": top1},
                custom_metadata=metadata,
            )
        except Exception as raised:  # a full disk raises many types of errors
            error = raised
        return self._check_saved(error)

    def wait(self) -> bool:
        """Waits until the last save has ended.

        Returns:
            Whether the last save has succeeded; True if there was none to wait for. False is
            possible only in a bucket.

        Raises:
            TrainingError: if the save fails; in a bucket, only after three failures in a row.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return True
        error = None
        try:
            writing.result()
        except Exception as raised:
            error = raised
        saved = self._check_saved(error)
        if saved:
            self._failed = 0
        return saved

    def _check_saved(self, error: Exception | None) -> bool:
        """Returns whether a save has succeeded so far. In a bucket, all processes must succeed.

        After a failure in a bucket, this logs a warning and deletes what the save has written.

        Args:
            error: error that the save raised in this process; None if there was none.

        Raises:
            TrainingError: after a failure on a disk, or after the third failure in a row in a
                bucket.
        """
        if not storage.is_remote(self._folder):
            if error is not None:
                raise self._failure(error) from error
            return True
        if processes.all_agree(error is None):
            return True
        error = error or OSError("another process could not write its part")
        self._failed += 1
        if self._failed == _SAVES_TO_TRY:
            raise self._failure(error) from error
        _LOG.warning(
            "the checkpoint of step %s could not be saved (%s); the next save replaces it",
            self._writing_step,
            _first_line(error),
        )
        self._writing = None
        with contextlib.suppress(Exception):  # reports the failure once more
            self._checkpointer.close()
        self._checkpointer = self._open()  # deletes what the failed save has left
        return False

    def restore(self, like: TrainState, *, start_over: bool = False) -> TrainState | None:
        """Returns the state of the newest undamaged checkpoint; None if there is none.

        Newer checkpoints that are damaged are reported and moved to `damaged_checkpoints/`.

        Args:
            like: a state with the expected names, shapes and dtypes.
            start_over: if every checkpoint is damaged, move all of them and return None.

        Raises:
            TrainingError: if every checkpoint is damaged, or one cannot be read for another reason.
            UsageError: if an undamaged checkpoint belongs to another network.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding),
            _as_dict(like),
        )
        damaged: dict[int, str] = {}
        for step in _saved_steps(self._folder):
            self._check_readable(step)
            tree, reason = self._load(step, abstract)
            if processes.all_agree(tree is not None):
                self._report(damaged, f"step {step} is used instead")
                return dataclasses.replace(like, **tree)
            damaged[step] = reason or "another process cannot read it"
        if not damaged:
            return None
        if start_over and not self._read_only:
            self._report(damaged, "starting at step 0, as --start-over says")
            return None
        found = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise TrainingError(
            f"every checkpoint in {self._folder} is damaged ({found}); none was moved. Restore one "
            "from a copy, or give --start-over to train from step 0"
        )

    def _open(self) -> ocp.training.Checkpointer:
        if processes.is_main() and not self._read_only:
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
            cleanup_tmp_directories=not self._read_only,
        )

    def _check_readable(self, step: int) -> None:
        """Checks that all files of a checkpoint can be opened, but not whether they are damaged.

        Does nothing if the checkpoint is in a bucket.

        Raises:
            TrainingError: if one cannot be opened; the message names the file and the reason.
        """
        if storage.is_remote(self._folder):
            return  # permissions are the same for all objects of a bucket
        for path in (self._folder / str(step)).rglob("*"):
            try:
                if path.is_file():
                    path.open("rb").close()
            except FileNotFoundError:
                continue  # deleted meanwhile by the run that is training
            except OSError as error:
                raise TrainingError(
                    f"the checkpoint of step {step} cannot be read: {error}"
                ) from None

    def _load(self, step: int, abstract: Mapping[str, Any]) -> tuple[Any, str]:
        """Loads the checkpoint of a step, and verifies its checksums.

        `abstract` has the expected shapes, dtypes and shardings of the arrays.

        Returns:
            The arrays and an empty string; if the checkpoint is damaged, None and the reason.

        Raises:
            UsageError: if it belongs to another network.
        """
        metadata = saved_metadata(self._folder / str(step))
        stored = metadata.get(_CHECKSUMS)
        if not isinstance(stored, Mapping):
            return None, "its description is missing or damaged"
        if metadata.get(_RUN_CHECKSUM, crc({})) != crc(metadata.get(_RUN, {})):
            return None, "its description is damaged"
        try:
            with _quiet():
                self._check_shapes(step, abstract)
                tree = self._checkpointer.load(step, abstract)
        except UsageError:
            raise
        except Exception as error:  # orbax raises many types of errors for a damaged file
            _LOG.warning("checkpoint of step %s", step, exc_info=error)
            return None, "files are missing, cut off or changed"
        found = checksums(tree)
        wrong = [name for name in found if found[name] != stored.get(name)]
        if wrong:
            return None, f"{len(wrong)} array(s) differ from what was saved, such as {wrong[0]}"
        return tree, ""

    def _check_shapes(self, step: int, abstract: Mapping[str, Any]) -> None:
        """Compares the array shapes in the checkpoint of a step with those of this network.

        `abstract` is as in `_load`.

        A flipped bit in the file changes the name or the shape of only one array. Such damage is
        accepted here, because loading detects it. If more arrays differ, the checkpoint belongs to
        another network.

        Raises:
            UsageError: if the checkpoint belongs to another network.
        """
        tree: Any = self._checkpointer.metadata(step).metadata
        there, here = _shapes(tree), _shapes(abstract)
        if not there:
            return  # damaged; loading will detect it
        other = [name for name in here.keys() & there.keys() if here[name] != there[name]]
        unpaired = here.keys() ^ there.keys()
        if len(other) > 1 or len(unpaired) > 2:
            name = min(other or unpaired)
            raise UsageError(
                f"the checkpoint of step {step} in {self._folder} is of another network: "
                f"{len(other) + len(unpaired)} arrays differ, such as {name} with shape "
                f"{there.get(name, 'none')}, here {here.get(name, 'none')}: give another --workdir"
            )

    def _report(self, damaged: Mapping[int, str], instead: str) -> None:
        """Reports damaged checkpoints and moves them, so that their steps can be saved again.

        Args:
            damaged: why each checkpoint counts as damaged, by step.
            instead: text that says what the run does without these checkpoints.
        """
        if not damaged:
            return
        if processes.is_main():
            for step, reason in damaged.items():
                print(
                    f"the checkpoint of step {step} is damaged ({reason}): {instead}",
                    file=sys.stderr,
                )
        if self._read_only:
            return
        self._checkpointer.close()
        if processes.is_main():
            self._damaged.mkdir(exist_ok=True)
            for step in damaged:
                _move(self._folder / str(step), self._damaged)
        processes.all_agree(True)  # no process continues before they are moved
        self._checkpointer = self._open()

    def _failure(self, error: Exception) -> TrainingError:
        reason = _first_line(error)
        if any(words in str(error) for words in _NO_SPACE):
            reason = "no space left on the disk"
        return TrainingError(
            f"the checkpoint of step {self._writing_step} could not be saved ({reason}); "
            "earlier ones are kept, and the same command resumes from them"
        )

    def _steps(self) -> list[int]:
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def newest_run(workdir: Path) -> dict[str, Any] | None:
    """Returns the run's description, from the newest checkpoint with an undamaged copy of it.

    Returns None if there is no such checkpoint.
    """
    for step in _saved_steps(storage.absolute(workdir) / "checkpoints"):
        metadata = saved_metadata(workdir / "checkpoints" / str(step))
        run = metadata.get(_RUN)
        if run and metadata.get(_RUN_CHECKSUM) == crc(run):
            return run
    return None


def saved_metadata(folder: Path) -> dict[str, Any]:
    """Returns the metadata in the folder of a checkpoint; empty if it cannot be read."""
    try:  # Orbax's own reader does not distinguish a damaged file from a missing one
        found = json.loads((folder / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _saved_steps(folder: Path) -> list[int]:
    """Returns the steps of all checkpoints in a folder, damaged or not, newest first."""
    if storage.is_remote(folder):  # an unfinished checkpoint lacks only the marker
        found = [path.parent for path in storage.matches(folder, f"*/{_COMMITTED}")]
    else:
        found = list(folder.glob("*"))
    return sorted((int(path.name) for path in found if path.name.isdigit()), reverse=True)


def _move(path: Path, folder: Path) -> None:
    """Moves a checkpoint into a folder, as "1000-2" if the folder already contains "1000"."""
    target, number = folder / path.name, 2
    while target.exists():
        target, number = folder / f"{path.name}-{number}", number + 1
    storage.move(path, target)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all arrays in a tree, by path.

    A path does not distinguish tuples from lists, or named tuples from dicts, because Orbax stores
    them alike.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }


def crc(value: Any) -> int:
    """Returns the CRC-32 of a value that can be written as JSON."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: hides the tracebacks that asyncio prints for arrays that fail to load."""
    logger = logging.getLogger("asyncio")
    logger.disabled = True
    try:
        yield
    finally:
        gc.collect()  # a failed task prints its error when it is garbage-collected
        logger.disabled = False


def _drop_damaged_metrics(folder: Path) -> None:
    """Deletes the damaged metrics files of checkpoints, because Orbax cannot start with them."""
    for path in folder.glob("*/metrics/metrics"):
        try:
            json.loads(path.read_text())
        except ValueError:
            print(f"{path} is damaged: this step cannot be the best any more", file=sys.stderr)
            path.unlink()


def checksums(tree: Any) -> dict[str, int]:
    """Returns the CRC-32 of the bytes of every array in a tree, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    values = jax.device_get([leaf for _, leaf in leaves])
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(value).tobytes())
        for (path, _), value in zip(leaves, values, strict=True)
    }


def _as_dict(state: TrainState) -> dict[str, object]:
    return {name: value for name, value in vars(state).items() if value is not None}

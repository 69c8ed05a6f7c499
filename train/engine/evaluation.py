"""Exact evaluation: every image counts once, for any number of devices and processes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from inception_jax.notes import printable
from inception_jax.registry import ModelInfo
from train.data import pipeline
from train.data.augment import evaluation_view
from train.data.bad_images import BadImages
from train.data.datasets import Dataset
from train.data.exclusions import read_exclusions
from train.data.options import InputOptions
from train.engine.prefetch import Stalled, Waiting
from train.engine.step import Metrics, TrainState
from train.errors import TrainingError
from train.hosts import processes
from train.hosts.devices import Devices
from train.hosts.preemption import Preemption


class Interrupted(Exception):
    """An evaluation was stopped because the run has to end."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        metrics: `eval_top1`, `eval_top5` and `eval_loss` of the averaged weights; the same names
            with the suffix `_raw` for the weights without averaging; `eval_examples`, the number of
            evaluated images; `eval_left_out`, the number of images left out, if there are any.
        predictions: class indices [n] that the averaged weights predict, in the order of the test
            set.
        confidence: probabilities [n] of the predicted classes.
        labels: true class indices [n].
        counted: bools [n], False for images that were left out because they are unusable or
            excluded.
    """

    metrics: dict[str, Any]
    predictions: np.ndarray
    confidence: np.ndarray
    labels: np.ndarray
    counted: np.ndarray


@dataclasses.dataclass
class Evaluator:
    """Evaluates training states on the test images.

    Holds the data set, the input's options, and the evaluation step, but no state.
    """

    dataset: Dataset
    options: InputOptions
    info: ModelInfo  # the preprocessing
    devices: Devices
    step: Callable[..., Metrics]  # see `make_eval_step`
    at_once: int  # number of images, over all devices, that fit into memory
    bad_images: BadImages

    def __post_init__(self) -> None:
        self._compiled = jax.jit(self.step, out_shardings=self.devices.replicated)
        path = self.options.eval_exclude
        self._exclude = frozenset() if path is None else read_exclusions(path)
        count = jax.device_count()  # the batch size must be a multiple of this
        self._batch_size = -(-max(self.at_once // self.options.eval_crops, 1) // count) * count

    def __call__(self, state: TrainState, stop: Preemption) -> Evaluation:
        """Evaluates the weights of a state and, if the state has one, their moving average.

        Args:
            state: training state.
            stop: tells whether the run has to end. It is asked after each batch, and while the
                evaluation waits for a batch.

        Returns:
            The `Evaluation`, in all processes with the images of all.

        Raises:
            Interrupted: if the run has to end.
            TrainingError: if too many images are bad, the number of images is wrong, or the list of
                exclusions names no test image.
        """
        weights = {"": state.averaged}
        if state.ema_params is not None:
            weights["_raw"] = (state.params, state.stats)
        outputs: dict[str, list[Any]] = {suffix: [] for suffix in weights}
        skipped = excluded = 0
        share = (jax.process_index(), jax.process_count())
        with (
            pipeline.evaluation_batches(
                self.dataset,
                self.options,
                self.info,
                self._batch_size,
                *share,
                exclude=self._exclude,
            ) as batches,
            _interruptible(batches, stop.now) as ready,
        ):
            for batch in ready:
                notes = batch.pop("notes")
                self.bad_images.add(notes)
                skipped += sum(note.kind == "skipped" for note in notes)
                excluded += sum(note.kind == "excluded" for note in notes)
                arrays = self.devices.put(batch)
                for suffix, (params, stats) in weights.items():
                    with stop.busy():  # compiles at first
                        found = self._compiled(params, stats, arrays)
                    outputs[suffix].append(jax.device_get(found))
                if stop():
                    raise Interrupted
        excluded = processes.total(excluded)
        if self._exclude and not excluded:
            raise TrainingError(
                f"none of the {len(self._exclude)} names in --eval-exclude "
                f"{self.options.eval_exclude}, such as {printable(min(self._exclude))}, is a test "
                "image's (folders and extensions are not compared)"
            )
        return self._gather(outputs, processes.total(skipped) + excluded)

    def pictures(self, indices: np.ndarray) -> list[np.ndarray]:
        """Returns a list of test images, uint8 [h, w, c], cropped as for the evaluation."""
        images = (self.dataset.test[int(i)].image for i in indices)
        views = (evaluation_view(image, self.info, self.dataset.channels)[0] for image in images)
        return [np.round(view).astype(np.uint8) for view in views]

    def _gather(self, outputs: dict[str, list[Any]], left_out: int) -> Evaluation:
        total = len(self.dataset.test)
        first = outputs[""]
        counted = np.concatenate([o["mask"] for o in first])[:total] > 0
        if counted.sum() + left_out != total or not counted.any():
            raise TrainingError(
                f"evaluated {counted.sum()} of {total} test images, with {left_out} left out"
            )
        metrics: dict[str, Any] = {}
        for suffix in ("", "_raw"):
            of_weights = outputs.get(suffix, first)
            examples = round(sum(float(o["examples"]) for o in of_weights))
            if examples != counted.sum():
                raise TrainingError(f"evaluated {examples} of {counted.sum()} images")
            for name in ("top1", "top5", "loss"):
                metrics[f"eval_{name}{suffix}"] = sum(float(o[name]) for o in of_weights) / examples
        metrics["eval_examples"] = int(counted.sum())
        if left_out:
            metrics["eval_left_out"] = left_out
        return Evaluation(
            metrics,
            np.concatenate([o["prediction"] for o in first])[:total],
            np.concatenate([o["confidence"] for o in first])[:total],
            np.concatenate([o["label"] for o in first])[:total],
            counted,
        )


@contextlib.contextmanager
def _interruptible(batches: Iterator[Any], stop: Callable[[], bool]) -> Iterator[Iterator[Any]]:
    """Context manager: yields an interruptible iterator over the batches.

    Raises:
        Interrupted: if `stop` returns True while the body waits for a batch.
    """
    with contextlib.closing(Waiting(stop, 1).read(batches)) as ready:
        try:
            yield ready
        except Stalled:
            raise Interrupted from None


def confusion(evaluation: Evaluation, classes: int) -> np.ndarray:
    """Returns the confusion matrix: image counts, by label (row) and prediction (column)."""
    counts = np.zeros((classes, classes), np.int64)
    chosen = evaluation.counted
    np.add.at(counts, (evaluation.labels[chosen], evaluation.predictions[chosen]), 1)
    return counts

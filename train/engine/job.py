"""The assembled parts of a run, ready for its first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from inception_jax.nn.cpu_libraries import CompilerOptions, call_onednn, training_options
from inception_jax.nn.forms import native_convolutions
from inception_jax.nn.model import Model
from train.data.bad_images import BadImages
from train.data.datasets import Dataset
from train.data.loader import Batches
from train.engine.evaluation import Evaluator
from train.engine.phases import Phase
from train.engine.step import TrainState
from train.hosts.devices import Devices


@dataclasses.dataclass
class Job:
    """The parts of a run: data, devices, network, state, training steps, evaluation."""

    dataset: Dataset
    devices: Devices
    per_epoch: int  # steps
    total: int  # steps
    model: Model  # with its initial parameters
    state: TrainState  # on the devices; the next step donates its buffers
    phases: tuple[Phase, ...]  # in order; reported costs are those of the last phase
    parts: int  # parts of a batch that a step computes one after another
    batches: Callable[[int, int], Batches]  # of this process, from a step up to an excluded step
    evaluate: Evaluator
    bad_images: BadImages

    @property
    def num_params(self) -> int:
        """Returns the number of trained parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def phase(self, step: int) -> Phase:
        """Returns the phase of a step."""
        return [phase for phase in self.phases if phase.start <= step][-1]

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step."""
        phase = self.phase(step)
        return float(phase.rate(step - phase.start))

    def lower(self, batch: Any, phase: Phase | None = None) -> Any:
        """Lowers the training step of a phase, and returns it as a `jax.stages.Lowered`.

        Args:
            batch: a batch, of which only shapes and dtypes matter.
            phase: phase whose step is lowered; None for the last.
        """
        step = (phase or self.phases[-1]).step
        options = training_options(self.model) if self.devices.platform == "cpu" else {}
        return jit(step, self.devices, options).lower(self.state, batch)

    def flops(self, compiled: Any) -> float | None:
        """Returns the FLOPs of the compiled step on one device; None if unknown."""
        count = (compiled.cost_analysis() or {}).get("flops", 0.0)
        # XLA counts the body of a loop once. Almost all of a step with several parts is a loop.
        return count * self.parts if count > 0 else None


def jit(step: Callable[..., Any], devices: Devices, options: CompilerOptions | None = None) -> Any:
    """Returns a jitted training step. Each call donates the buffers of the state."""
    options = options or {}
    return jax.jit(
        native_convolutions()(step) if call_onednn(options) else step,
        donate_argnums=0,
        in_shardings=(devices.replicated, devices.sharded),
        out_shardings=(devices.replicated, devices.replicated),
        compiler_options=options or None,
    )

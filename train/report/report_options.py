"""Options for the reports of a run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from train.config.fields import MAY_CHANGE


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Options for TensorBoard, `report.html`, Weights & Biases and messages."""

    tensorboard: Annotated[bool, MAY_CHANGE] = True
    """Also write metrics for TensorBoard, to WORKDIR/tensorboard."""
    report: Annotated[bool, MAY_CHANGE] = True
    """Write WORKDIR/report.html at each evaluation: result, curves, classes and pictures."""
    wandb: Annotated[str | None, MAY_CHANGE] = None
    """Project of Weights & Biases to log to; needs the package wandb."""
    verbose: Annotated[bool, MAY_CHANGE] = False
    """Print messages of libraries to standard error at once. Off: they only go to error.log."""

"""The options of what is reported."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from train.config.fields import MAY_CHANGE


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Where metrics go, beside `metrics.jsonl`."""

    tensorboard: Annotated[bool, MAY_CHANGE] = True
    """Write metrics for TensorBoard too, to WORKDIR/tensorboard."""
    report: Annotated[bool, MAY_CHANGE] = True
    """Write WORKDIR/report.html at each evaluation: result, curves, classes and pictures."""
    wandb: Annotated[str | None, MAY_CHANGE] = None
    """Project of Weights & Biases to log to; needs the package wandb."""
    verbose: Annotated[bool, MAY_CHANGE] = False
    """Print what libraries log, as it comes, on standard error; else it is kept for error.log."""

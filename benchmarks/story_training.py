"""Makes the tables on training in docs/story.md: label smoothing, and RMSProp's step sizes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from benchmarks import page
from benchmarks.trick_runs import torch_rmsprop
from train.engine.optimizer import make_optimizer
from train.engine.training_options import OptimizerOptions

GRADIENTS = (0.001, 0.1, 10.0)
STEPS = (1, 100)


def smoothing() -> str:
    """Returns the Markdown table of probabilities and logit gaps that minimise a smoothed loss."""
    rows = []
    for classes in (10, 1000):
        for share in (0.0, 0.1):
            own, other = targets(classes, share)
            gap = math.log(own / other) if other else math.inf
            lowest = sum(n * p * math.log(1 / p) for n, p in ((1, own), (classes - 1, other)) if p)
            rows.append(
                [f"{classes:,}", f"{share:g}", f"{own:.4g}", f"{other:.4g}",
                 f"{gap:.2f}" if other else "∞", f"{lowest:.3f}"]
            )  # fmt: skip
    head = ["classes", "smoothing", "best probability of the label", "of each other class",
            "best logit gap", "lowest loss"]  # fmt: skip
    return page.table(head, rows)


def targets(classes: int, share: float) -> tuple[float, float]:
    """Returns the smoothed target of the labelled class, and the target of every other class.

    Args:
        classes: number of classes.
        share: share of the target that is spread over all classes.
    """
    smoothed = optax.smooth_labels(jax.nn.one_hot(jnp.array(0), classes), share)
    return float(smoothed[0]), float(smoothed[1])


def rmsprop() -> str:
    """Returns the Markdown table of step sizes of SGD and RMSProp under a constant gradient.

    RMSProp is computed in TensorFlow's and in PyTorch's form. Step sizes are multiples of the
    learning rate. There is no momentum.
    """
    rules = [("SGD", OptimizerOptions(optimizer="sgd"), False)]
    for eps in ("1.0", "1e-3"):
        for name in ("TensorFlow", "PyTorch"):
            options = OptimizerOptions(rms_eps=float(eps))
            rules.append((f"{name}, epsilon {eps}", options, name == "PyTorch"))
    rows = []
    for name, options, torch_form in rules:
        cells = [f"{size:.3g}" for g in GRADIENTS for size in step_sizes(options, g, torch_form)]
        rows.append([name, *cells])
    head = [f"gradient {g:g}: step {i}" for g in GRADIENTS for i in STEPS]
    return page.table(["rule", *head], rows)


def step_sizes(options: OptimizerOptions, gradient: float, torch_form: bool) -> list[float]:
    """Returns the sizes of the steps in `STEPS` under a constant gradient.

    The learning rate is 1. There is no momentum and no weight decay.

    Args:
        options: options of which only the optimiser and epsilon are used.
        gradient: constant gradient.
        torch_form: whether to use PyTorch's form of RMSProp; otherwise, TensorFlow's.
    """
    plain = OptimizerOptions(
        optimizer=options.optimizer, rms_eps=options.rms_eps, momentum=0.0, weight_decay=0.0
    )
    rule = (torch_rmsprop if torch_form else make_optimizer)(plain, lambda step: 1.0)
    params = {"kernel": jnp.zeros(())}
    state = rule.init(params)
    sizes = []
    for _ in range(max(STEPS)):
        updates, state = rule.update({"kernel": jnp.array(gradient)}, state, params)
        sizes.append(-float(updates["kernel"]))  # pyright: ignore[reportIndexIssue, reportArgumentType, reportCallIssue]
    return [sizes[i - 1] for i in STEPS]

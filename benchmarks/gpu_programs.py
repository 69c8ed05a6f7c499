"""The programs that `gpu.py` runs, each in its own process.

`ours`, `timm` and `fid` return functions to be timed. The others measure once and return a dict.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.implementations import RATE, TIMM, Task, descent, jax_loss, jax_training
from benchmarks.workers import Run, UnavailableError
from inception_jax.nn.rewrite_names import DEFAULT_REWRITES

PRECISIONS = ("default", "high", "highest")
_STEPS = 3  # training steps


def ours(task: Task, *, training: bool) -> Run:
    """Returns a function that runs this library's network under `jax.jit`.

    Args:
        task: network and inputs.
        training: whether to run a training step, including the update, or inference.
    """
    from benchmarks.implementations import jax_inference

    build = jax_training if training else jax_inference
    return build(task, rewrites=DEFAULT_REWRITES)


def timm(task: Task, *, training: bool, compiled: bool) -> Run:
    """Returns a function that runs timm's network in the channels-last memory format.

    Args:
        task: network and inputs.
        training: whether to run a training step, including the update, or inference.
        compiled: whether to use `torch.compile`.

    Raises:
        UnavailableError: if timm is not installed or has no such network.
    """
    if importlib.util.find_spec("timm") is None:
        raise UnavailableError("timm is not installed")
    import timm  # type: ignore[import-not-found]
    import torch

    name = TIMM.get(task.arch, task.arch)
    if not timm.is_model(name):
        raise UnavailableError("timm has no such network")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = {"aux_logits": False} if "inception_v3" in name else {}
    model = timm.create_model(name, pretrained=False, **options).to(device)
    model = model.to(memory_format=torch.channels_last).train(training)
    call: Any = torch.compile(model) if compiled else model
    images = torch.from_numpy(task.images.transpose(0, 3, 1, 2).copy()).to(device)
    images = images.to(memory_format=torch.channels_last)
    narrow = partial(torch.autocast, device.type, torch.bfloat16, enabled=task.dtype == "bfloat16")
    if not training:

        def predict() -> np.ndarray:
            with torch.inference_mode(), narrow():
                return call(images).float().cpu().numpy()

        return predict
    labels = torch.from_numpy(task.labels.astype(np.int64)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step() -> np.ndarray:
        with narrow():
            loss = torch.nn.functional.cross_entropy(call(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach().cpu().numpy()

    return step


def memory(task: Task) -> dict[str, float | None]:
    """Measures the peak memory of training steps.

    Returns:
        A dict of sizes in GB: `peak` is measured (None on a CPU), and `compiler` is the compiler's
        estimate.
    """
    import jax

    loss_fn, *state = jax_loss(task, rewrites=DEFAULT_REWRITES)
    arrays = jax.device_put((*state, task.images, task.labels))
    step = descent(loss_fn).lower(*arrays).compile()
    need = step.memory_analysis()
    total = sum(
        getattr(need, f"{kind}_size_in_bytes") for kind in ("argument", "output", "temp")
    ) - getattr(need, "alias_size_in_bytes", 0)
    params, rest, *inputs = arrays
    for _ in range(_STEPS):
        params, rest, _ = step(params, rest, *inputs)
    jax.block_until_ready(params)
    stats = jax.local_devices()[0].memory_stats() or {}  # None on a CPU
    peak = stats.get("peak_bytes_in_use")
    return {"compiler": total / 1e9, "peak": None if peak is None else peak / 1e9}


def parity(task: Task) -> dict[str, float]:
    """Returns the difference between the logits on the GPU and on the CPU, by matmul precision.

    The difference is the largest absolute difference divided by the largest absolute logit on the
    CPU, which always computes in the highest precision. The result is a dict with the names of
    `PRECISIONS` as keys.
    """
    import jax
    from flax import nnx

    import inception_jax as ij
    from benchmarks.implementations import _model

    graphdef, state = nnx.split(_model(task))

    def logits(device: Any, precision: str) -> np.ndarray:
        with jax.default_matmul_precision(precision), ij.rewritten(*DEFAULT_REWRITES):
            call = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))
            return np.asarray(call(*jax.device_put((state, task.images), device)))

    expected = logits(jax.devices("cpu")[0], "highest")
    card = jax.local_devices()[0]
    scale = np.abs(expected).max()
    return {p: float(np.abs(logits(card, p) - expected).max() / scale) for p in PRECISIONS}


def determinism(task: Task) -> dict[str, bool]:
    """Compares the losses of two training runs that start from the same state.

    Returns:
        A dict with one key, `equal`: whether the losses are equal to the last bit.
    """
    losses = []
    for _ in range(2):
        run = jax_training(task, rewrites=DEFAULT_REWRITES)
        losses.append([run().tobytes() for _ in range(_STEPS)])
    return {"equal": losses[0] == losses[1]}


def fid(folder: Path, weights: Path, batch_size: int) -> Run:
    """Returns a function that computes a folder's feature mean and covariance, for FID.

    The function returns only the mean.

    Args:
        folder: folder of images.
        weights: file of weights of `inception_v3.fid`.
        batch_size: number of images in a batch.
    """
    from inception_jax import metrics

    extractor = metrics.Extractor(weights, batch_size=batch_size)
    extractor.load()
    return lambda: extractor.statistics(folder).mean

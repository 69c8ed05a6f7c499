"""Measures how much each network differs from its PyTorch twin in `reference_torch`.

    python benchmarks/equivalence.py [--archs ARCH ...] [--no-traps]

prints tables and writes them into docs/equivalence.md. It needs the extra `test`. Both networks get
the same images and the same random weights, scales and running statistics. The loss of both is the
same random linear function of the logits. One network in one dtype takes half a minute to three
minutes on one core. The table of networks is written only if it has all networks and dtypes.

Two more tables show traps: common mistakes, and how much each changes the logits. One table has
wrong options, the other wrongly prepared images. With `--no-traps`, both tables are left out.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import tyro
from flax import nnx
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import inception_jax as ij
from benchmarks import page
from inception_jax.metrics.resizing import resized
from inception_jax.nn.layers import IMAGENET_MEAN, IMAGENET_STD
from reference_torch.optim import TensorFlowRMSprop
from tests.helpers.networks import (
    CLASSES,
    WIDTH,
    WRONG_READINGS,
    forget,
    named_leaves,
    options_for,
    random_images,
    run,
)
from tests.helpers.twins import pair, to_nchw, twin_of

DTYPES = ("float64", "float32", "bfloat16")
IMAGES = 8
RATE = 0.045


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Compare networks with their twins."""

    archs: tuple[str, ...] = tuple(ij.list_models())
    """Names or tags of the networks to compare."""
    dtypes: tuple[str, ...] = DTYPES
    """Dtypes in which networks compute; parameters are float32 or wider in both libraries."""
    jobs: int = os.cpu_count() or 1
    """Number of networks to compare at the same time."""
    traps: bool = True
    """Also measure the effect of wrong options, wrong images and PyTorch's RMSProp."""


def main(options: Options) -> None:
    """Compares networks with their PyTorch twins, and writes tables into docs/equivalence.md.

    The tables are also printed. The table of networks is only printed if it lacks a network or a
    dtype.
    """
    target, machine = options.docs / "equivalence.md", page.machine("jax", "flax", "torch")
    rows = []
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        found = pool.imap(functools.partial(_row, dtypes=options.dtypes), options.archs)
        for row in tqdm(found, unit=" networks", total=len(options.archs)):
            rows.append(row)
            tqdm.write(" | ".join(row))
    if rows:
        heads = [f"{d}: logits" for d in options.dtypes]
        head = ["network", *(cell for h in heads for cell in (h, "gradients", "a step"))]
        whole = {*options.archs} >= {*ij.list_models()} and options.dtypes == DTYPES
        page.publish(target if whole else None, "networks", machine, page.table(head, rows))
    if options.traps:
        head = ["trap", "network", "the wrong option", "logits off by"]
        traps = [_trap(what, *wrong) for what, wrong in WRONG_READINGS.items()]
        page.publish(target, "traps", machine, page.table(head, traps), _optimiser_trap())
        head = ["`inception_v3` is fed", "logits off by"]
        page.publish(target, "images", machine, page.table(head, _image_traps()))


def _row(name: str, dtypes: Sequence[str]) -> list[str]:
    torch.set_num_threads(1)  # each network has its own process
    row = [f"`{name}`", *(cell for dtype in dtypes for cell in _cells(name, dtype))]
    forget()
    return row


def _cells(name: str, dtype: str) -> list[str]:
    """Returns the differences between a network and its PyTorch twin in one dtype, as table cells.

    The cells have the differences of the logits, the gradients, and one RMSProp step.
    """
    with jax.enable_x64(dtype == "float64"):
        ours, theirs = _in_jax(name, dtype), _in_torch(name, dtype)
        apart = {k: distance(ours[k], theirs[k]) for k in ours}
        step = max(apart.pop("updates"), apart.pop("statistics"))
        return [f"{x:.0e}" for x in (*apart.values(), step)]


Results = dict[str, Mapping[str, np.ndarray]]


def _in_jax(name: str, dtype: str) -> Results:
    """Returns this library's logits and gradients, and the results of one RMSProp step.

    The results of the step are the parameter updates and BatchNorm's new running statistics.

    Args:
        name: name of the network, with or without a tag.
        dtype: dtype of the computation. Parameters are float32 for bfloat16.

    Returns:
        Arrays by name, for each of `logits`, `gradients`, `updates` and `statistics`.
    """
    stored = "float32" if dtype == "bfloat16" else dtype
    model: Any = pair(name, stored, **options_for(name))[0]
    if dtype == "bfloat16":
        narrow = ij.create_model(name, dtype=jnp.bfloat16, **_options(name))
        ij.load_weights(narrow, ij.to_torch(model))
        model = narrow
    images, pulls = _work(model, name, stored)
    logits, _ = run(model, lambda m, x: m(x), images)
    inputs = jnp.asarray(images)
    training = nnx.merge(*nnx.split(model))
    training.train()
    graphdef, params, stats = nnx.split(training, nnx.Param, nnx.BatchStat)
    tx = optax.rmsprop(RATE, decay=0.9, eps=1.0, initial_scale=1.0, eps_in_sqrt=True, momentum=0.9)

    @jax.jit
    def step(params: Any, stats: Any) -> Any:
        def loss(params: Any) -> Any:
            merged = nnx.merge(graphdef, params, stats)
            out = _heads(merged(inputs, rngs=nnx.Rngs(dropout=0)))
            pulled = sum((out[h].astype(stored) * pulls[h]).sum() for h in out)
            return pulled, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

        grads, stats_after = jax.grad(loss, has_aux=True)(params)
        return grads, tx.update(grads, tx.init(params), params)[0], stats_after

    found = step(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))
    grads, updates, stats_after = map(named_leaves, found)
    return {
        "logits": {"logits": np.asarray(logits, stored)},
        "gradients": grads,
        "updates": updates,
        "statistics": stats_after,
    }


def _in_torch(name: str, dtype: str) -> Results:
    """Returns the same results as `_in_jax`, computed by the PyTorch twin."""
    stored = "float32" if dtype == "bfloat16" else dtype
    model, _ = pair(name, stored, **options_for(name))
    twin = twin_of(model, name, stored, **options_for(name))
    images, pulls = _work(model, name, stored)
    # Parameters stay in float32 and are rounded when they are used, as in this library.
    narrow = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    with narrow, torch.no_grad():
        logits = twin(to_nchw(images))
    twin.train()
    before = {key: p.detach().clone() for key, p in twin.named_parameters()}
    with narrow:
        out = _heads(twin(to_nchw(images)))
    pulled = [(out[h].to(getattr(torch, stored)) * torch.from_numpy(pulls[h])).sum() for h in out]
    torch.stack(pulled).sum().backward()
    TensorFlowRMSprop(twin.parameters(), RATE).step()
    parameters = dict(twin.named_parameters())
    statistics = {k: b for k, b in twin.named_buffers() if not k.endswith("num_batches_tracked")}
    updates = {key: parameters[key].detach() - before[key] for key in before}
    return {
        "logits": {"logits": logits.to(getattr(torch, stored)).numpy()},
        "gradients": {k: p.grad.numpy() for k, p in parameters.items() if p.grad is not None},
        "updates": {key: value.numpy() for key, value in updates.items()},
        "statistics": {key: value.numpy() for key, value in statistics.items()},
    }


def _options(name: str) -> dict[str, Any]:
    return {"width_multiplier": WIDTH, "num_classes": CLASSES, **options_for(name)}


def _work(model: Any, name: str, dtype: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    side = (model.min_size + 24) | 1
    images = random_images(model, dtype, (side, side), n=IMAGES)
    rng = np.random.default_rng(3)
    heads = ["logits", *ij.model_info(name).aux_heads]
    return images, {h: rng.normal(size=(IMAGES, CLASSES)).astype(dtype) for h in heads}


def _heads(out: Any) -> dict[str, Any]:
    return out if isinstance(out, dict) else {"logits": out}


def distance(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """Returns the Euclidean distance between `ours` and `theirs`, divided by the norm of `theirs`.

    All tensors of a mapping count as one vector.

    Raises:
        ValueError: if the names of the tensors differ.
    """
    if set(ours) != set(theirs):
        raise ValueError(f"the twins differ in {sorted(set(ours) ^ set(theirs))}")
    pairs = [(ours[k].astype(np.float64), theirs[k].astype(np.float64)) for k in ours]
    difference = sum(np.square(a - b).sum() for a, b in pairs)
    return float(np.sqrt(difference / sum(np.square(b).sum() for _, b in pairs)))


def _trap(what: str, name: str, option: Mapping[str, Any]) -> list[str]:
    """Returns a table row, a list of cells: the effect of a wrong option on the twin's logits.

    Args:
        what: description of the mistake.
        name: name of the network.
        option: wrong value by name of the option; all other options keep their values.
    """
    base = {k: v for k, v in options_for(name).items() if k == "blocks"}
    model, _ = pair(name, "float32", **base)
    side = ij.model_info(name).input_size
    images = to_nchw(random_images(model, "float32", (side, side)))
    with torch.no_grad():
        right, wrong = (
            {"logits": twin_of(model, name, "float32", **base, **changed)(images).numpy()}
            for changed in ({}, option)
        )
    options = ", ".join(f"`{k}={v!r}`" for k, v in option.items())
    return [what, f"`{name}`", options, _percent(distance(wrong, right))]


def _image_traps() -> list[list[str]]:
    """Returns table rows with the effect of wrongly prepared images on Inception V3's logits.

    Each row is a list of two cells: the mistake, and the change of the logits in percent.
    """
    _, twin = pair("inception_v3", "float32")
    side = ij.model_info("inception_v3").input_size
    rng = np.random.default_rng(4)
    # As smooth as photographs, so that resizing has a realistic effect.
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    photograph = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC))
    right = resized(photograph, "bilinear_torch")
    share = (right + 1) / 2
    wrong = {
        "channels as blue, green, red": right[..., ::-1],
        "pixels from 0 to 255": 255 * share,
        "pixels from 0 to 1": share,
        "ImageNet's mean and deviation": (share - IMAGENET_MEAN) / IMAGENET_STD,
        "TensorFlow 1's grid in resizing": resized(photograph, "bilinear_tf1"),
        "Pillow's resizing, which smooths": np.asarray(
            Image.fromarray(photograph).resize((side, side), Image.Resampling.BILINEAR)
        )
        / np.float32(127.5)
        - 1,
    }

    def logits(image: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"logits": twin(to_nchw(image[None].astype(np.float32))).numpy()}

    expected = logits(right)
    return [[what, _percent(distance(logits(x), expected))] for what, x in wrong.items()]


def _optimiser_trap(steps: int = 10) -> str:
    """Returns a sentence on how much parameters differ between PyTorch's and TensorFlow's RMSProp.

    Args:
        steps: number of optimiser steps after which the parameters are compared.
    """
    rng = np.random.default_rng(5)
    gradients = torch.from_numpy(rng.normal(0, 0.01, (steps, 1000)))
    ways = []
    kinds: list[tuple[Any, str]] = [(TensorFlowRMSprop, "decay"), (torch.optim.RMSprop, "alpha")]
    for kind, name in kinds:
        parameter = torch.zeros(1000, dtype=torch.float64, requires_grad=True)
        optimiser = kind([parameter], RATE, momentum=0.9, eps=1.0, **{name: 0.9})
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimiser.step()
        ways.append({"way": parameter.detach().numpy()})
    return page.paragraph(
        f"""With the papers' epsilon of 1.0 and gradients of 0.01, the parameters of
        `torch.optim.RMSprop` are off by {100 * distance(ways[1], ways[0]):.0f} % after {steps}
        steps."""
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:,.0f} %"


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Numbers that every network must give, computed by its PyTorch twin in float64.

`python -m tests.reference_numbers [NAME...]` writes them to `reference_numbers.json`, with PyTorch.
The tests compare JAX with the file, so they need none. Parameters, statistics and images are drawn
by NumPy, each tensor from a seed of its own name: neither jax's random numbers nor the order of the
tensors matter. Write the file again only if the numbers are meant to change.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import inception_jax as ij
from inception_jax.weights import torch_names
from tests.helpers.networks import CLASSES, named_leaves, options_for, run, skeleton, small

FILE = Path(__file__).with_suffix(".json")
IMAGES, STEP, AUX_WEIGHT = 8, 0.1, 0.4  # STEP is the length of the step along the gradient
TENSORS = 6  # of the kernels, and of the statistics, whose gradient or change is kept

Tensors = dict[str, np.ndarray]


def of_jax(name: str, dtype: str) -> dict[str, Any]:
    """Returns a network's logits before and after a training step, and what the step did."""
    model = seeded(name, dtype)
    images, labels = batch(model, dtype)
    logits, _ = run(model, lambda m, x: m(x), images)
    model.train()
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    model.eval()

    @jax.jit
    def step(params: Any, stats: Any) -> Any:
        def loss_of(params: Any) -> Any:
            network = nnx.merge(graphdef, params, stats)
            out = network(images, rngs=nnx.Rngs(0))
            heads = out if isinstance(out, dict) else {"logits": out}
            losses = {
                head: -jax.nn.log_softmax(x)[jnp.arange(IMAGES), labels].mean()
                for head, x in heads.items()
            }
            loss = losses.pop("logits") + AUX_WEIGHT * sum(losses.values())
            return loss, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    (loss, new_stats), grads = step(params, stats)
    rate = STEP / _norm(named_leaves(grads))
    nnx.update(model, jax.tree.map(lambda p, g: p - jnp.asarray(rate, dtype) * g, params, grads))
    nnx.update(model, new_stats)
    after, _ = run(model, lambda m, x: m(x), images)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), new_stats, stats)
    return _numbers(logits, loss, named_leaves(grads), named_leaves(moved), after)


def of_pytorch(name: str) -> dict[str, Any]:
    """The same, by the network's twin in float64."""
    import torch
    import torch.nn.functional as F

    from tests.helpers.twins import to_nchw, twin_of

    with jax.enable_x64(True):
        model = seeded(name, "float64")
        twin = twin_of(model, name, "float64", **options_for(name))
        images, labels = (torch.from_numpy(a) for a in batch(model, "float64"))
    images = to_nchw(images)
    with torch.no_grad():
        logits = twin(images)
    before = {k: b.clone() for k, b in twin.named_buffers() if "running" in k}
    out = twin.train()(images)
    heads = out if isinstance(out, dict) else {"logits": out}
    losses = {head: F.cross_entropy(x, labels) for head, x in heads.items()}
    loss = losses.pop("logits") + AUX_WEIGHT * sum(losses.values())
    loss.backward()
    grads = {k: p.grad.numpy() for k, p in twin.named_parameters()}
    moved = {k: (twin.get_buffer(k) - old).numpy() for k, old in before.items()}
    rate = STEP / _norm(grads)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter -= rate * parameter.grad
        after = twin.eval()(images)
    return _numbers(logits.numpy(), loss.item(), grads, moved, after.numpy())


def seeded(name: str, dtype: str) -> nnx.Module:
    """Returns a narrow network whose every tensor is drawn from its name."""
    options = {**small(name), **options_for(name)}
    model = skeleton(name, dtype=dtype, param_dtype=dtype, **options)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        names = tuple(key.key for key in path)
        rng = np.random.default_rng(zlib.crc32(torch_names.torch_name(names).encode()))
        if names[-1] in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(dtype)
        fan_in = np.prod(leaf.shape[:-1]) if names[-1] == "kernel" else 100
        gain = 1 if "depthwise" in names else 2  # no ReLU halves what follows a depthwise kernel
        return rng.normal(0, np.sqrt(gain / fan_in), leaf.shape).astype(dtype)

    nnx.update(model, jax.tree_util.tree_map_with_path(fill, torch_names.state_of(model)))
    return model


def batch(model: nnx.Module, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [IMAGES, h, w, 3], of odd and even sides, and their labels."""
    rng = np.random.default_rng(0)
    size = (model.min_size + 20, model.min_size + 33)
    images = rng.normal(size=(IMAGES, *size, model.in_channels)).astype(dtype)
    return images, rng.integers(0, CLASSES, IMAGES)


def _numbers(logits: Any, loss: Any, grads: Tensors, moved: Tensors, after: Any) -> dict[str, Any]:
    # The gradient of a bias before a BatchNorm is zero, of which rounding leaves something.
    kernels = {name: grad for name, grad in grads.items() if grad.ndim > 1}
    return {
        "logits": np.asarray(logits).tolist(),
        "loss": float(loss),
        "gradient norm": _norm(grads),
        "gradients": _projections(kernels),
        "change of statistics": _projections(moved),
        "logits after the step": np.asarray(after).tolist(),
    }


def _norm(grads: Tensors) -> float:
    return float(np.sqrt(sum(np.square(grad).sum() for grad in grads.values())))


def _projections(tensors: Tensors) -> dict[str, float]:
    """One number of each of a few tensors, evenly spaced by name, which all its elements change."""
    names = sorted(tensors)
    chosen = {names[i] for i in np.linspace(0, len(names) - 1, TENSORS).round().astype(int)}
    return {
        name: float(tensors[name].ravel() @ (2 + np.cos(np.arange(tensors[name].size))))
        for name in sorted(chosen)
    }


def main() -> None:
    """Writes the file, or the numbers of the networks that are named."""
    names = ij.list_models()
    kept = json.loads(FILE.read_text()) if sys.argv[1:] else {}
    numbers = kept | {name: of_pytorch(name) for name in sys.argv[1:] or names}
    FILE.write_text(json.dumps({name: numbers[name] for name in names}, indent=1) + "\n")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()

"""Reference numbers of every network: results of a training step of its PyTorch twin in float64.

`python -m tests.reference_numbers [NAME...]` writes them to `reference_numbers.json` and needs
PyTorch. The tests compare JAX with this file and do not need PyTorch. NumPy draws parameters,
statistics and images. Write the file again only if the numbers are meant to change.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import inception_jax as ij
from tests.helpers.networks import CLASSES, named_leaves, network, options_for

FILE = Path(__file__).with_suffix(".json")
IMAGES, STEP, AUX_WEIGHT = 3, 0.1, 0.4  # STEP is the length of the step along the gradient
# Momenta of the running statistics as in the papers, whatever a network's default is.
MOMENTA = {
    **dict.fromkeys(("inception_v1", "inception_v2", "inception_v3", "inception_v4"), 0.9997),
    "inception_resnet_v2": 0.9997,
    "inception_resnet_v1": 0.995,
    "xception": 0.99,
}
TENSORS = 6  # kernels with stored gradients, and statistics with stored changes

Tensors = dict[str, np.ndarray]


def of_jax(name: str, dtype: str) -> dict[str, Any]:
    """Returns the results of one training step of a network in JAX.

    The dict has the logits before and after the step, the loss, the norm of the gradients, and
    weighted sums of gradients and of changes in the running statistics (see `_projections`).
    """
    model = network(name, dtype, **_options(name))
    images, labels = batch(model, dtype)
    eval_def, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    model.train()
    train_def, *_ = nnx.split(model, nnx.Param, nnx.BatchStat)
    model.eval()

    @jax.jit
    def classify(params: Any, stats: Any) -> Any:
        return nnx.merge(eval_def, params, stats)(images)

    @jax.jit
    def step(params: Any, stats: Any) -> Any:
        def loss_of(params: Any) -> Any:
            network = nnx.merge(train_def, params, stats)
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
    logits = classify(params, stats)
    (loss, new_stats), grads = jax.device_get(step(params, stats))
    rate = STEP / _norm(named_leaves(grads))
    after = classify(jax.tree.map(lambda p, g: p - rate * g, params, grads), new_stats)
    moved = jax.tree.map(lambda new, old: new - np.asarray(old), new_stats, stats)
    return _numbers(logits, loss, named_leaves(grads), named_leaves(moved), after)


def of_pytorch(name: str) -> dict[str, Any]:
    """Returns the results of one training step of a network's PyTorch twin in float64.

    The dict has the same keys as that of `of_jax`. Parameters, images and labels are the same too.
    """
    import torch
    import torch.nn.functional as F

    from tests.helpers.twins import to_nchw, twin_of

    with jax.enable_x64(True):
        model = network(name, "float64", **_options(name))
        twin = twin_of(model, name, "float64", **_options(name))
        images, labels = batch(model, "float64")
    images, labels = to_nchw(images), torch.from_numpy(labels)
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


def _options(name: str) -> dict[str, Any]:
    return options_for(name) | {"bn_momentum": MOMENTA.get(name, 0.9)}


def batch(model: nnx.Module, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images [IMAGES, h, w, c], with an odd and an even side, and random labels.

    The sides are a little longer than the smallest that `model` takes.
    """
    rng = np.random.default_rng(0)
    size = (model.min_size + 20, model.min_size + 33)
    images = rng.normal(size=(IMAGES, *size, model.in_channels)).astype(dtype)
    return images, rng.integers(0, CLASSES, IMAGES)


def _numbers(logits: Any, loss: Any, grads: Tensors, moved: Tensors, after: Any) -> dict[str, Any]:
    # The gradient of a bias before a BatchNorm is zero except for rounding.
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
    """Returns, for each of `TENSORS` tensors, one number: a weighted sum of all its elements.

    The tensors are evenly spaced in the sorted list of names. Element i of the flattened tensor has
    the weight 2 + cos(i).
    """
    names = sorted(tensors)
    chosen = {names[i] for i in np.linspace(0, len(names) - 1, TENSORS).round().astype(int)}
    return {
        name: float(tensors[name].ravel() @ (2 + np.cos(np.arange(tensors[name].size))))
        for name in sorted(chosen)
    }


def main() -> None:
    """Writes the results of a PyTorch training step of every network to reference_numbers.json.

    If the command line names networks, only their entries are computed again. `of_jax` lists the
    results.
    """
    names = ij.list_models()
    kept = json.loads(FILE.read_text()) if sys.argv[1:] else {}
    numbers = kept | {name: of_pytorch(name) for name in sys.argv[1:] or names}
    FILE.write_text(json.dumps({name: numbers[name] for name in names}, indent=1) + "\n")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()

"""Compares ten steps of Inception V3's recipe in JAX and PyTorch, with equal weights and batches.

The JAX side uses the step and optimiser of the training programme. The PyTorch side is implemented
here, with TensorFlow's RMSProp from `reference_torch.optim`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import inception_jax as ij
from tests.helpers.networks import CLASSES, named_leaves, options_for
from train.config.fields import override
from train.engine import functional
from train.engine.augmentation import Augmentation
from train.engine.functional import split
from train.engine.optimizer import OptimizerOptions, make_optimizer
from train.engine.schedule import ScheduleOptions, learning_rate
from train.engine.step import init_state, make_gradients, make_loss, make_train_step
from train.run.command_line import Config

torch = pytest.importorskip("torch")
import torch.nn.functional as F

from reference_torch.optim import TensorFlowRMSprop
from tests.helpers.twins import pair, to_nchw, twin_of

pytestmark = pytest.mark.usefixtures("optimizing_compiler")

STEPS, BATCH, STEPS_PER_EPOCH = 10, 8, 3


def config_for(name: str) -> Config:
    """Returns a `Config` in float64, without dropout, whose learning rate decays fast.

    `name` is the name of the network.
    """
    options = dict(
        arch=name,
        image_size=ij.model_info(name).min_size + 32,
        lr_decay_epochs=1.0,
        lr_decay=0.5,
        clip_norm=2.0,
        bn_momentum=0.9,
        dropout=0.0,
        dtype="float64",
    )
    return override(Config(), options)


def rate_of(config: Config):
    return learning_rate(config.schedule, BATCH, STEPS_PER_EPOCH, STEPS)


def augmentation_of(config: Config) -> Augmentation:
    network = config.network
    return Augmentation(config.augmentation, network.arch, config.input.image_size, network.dtype)


def batches(steps: int):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        yield {
            "image": rng.integers(0, 256, (BATCH, 28, 28, 3), np.uint8),
            "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
        }


def train_in_jax(name: str, config: Config):
    model, _ = pair(name, "float64", **options_for(name))
    train_def, _, params, stats = split(model)
    tx = make_optimizer(config.optimizer, rate_of(config))
    state = init_state(params, stats, tx)
    forward = functional.make_forward(train_def, config.network)
    loss = make_loss(forward, augmentation_of(config), config.step, CLASSES)
    gradients = make_gradients(loss, config.batch, config.run.seed)
    step = jax.jit(make_train_step(gradients, tx, config.step))
    losses = []
    for batch in batches(STEPS):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return {
        "parameters": named_leaves(state.params),
        "statistics": named_leaves(state.stats),
        "averaged parameters": named_leaves(state.ema_params),
        "averaged statistics": named_leaves(state.ema_stats),
    }, losses


def _parameters(name: str) -> dict[str, np.ndarray]:
    model, _ = pair(name, "float64", **options_for(name))
    return named_leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def train_in_torch(name: str, config: Config):
    model, _ = pair(name, "float64", **options_for(name))
    twin = twin_of(model, name, "float64", **options_for(name)).train()
    params = dict(twin.named_parameters())
    stats = {k: b for k, b in twin.named_buffers() if not k.endswith("num_batches_tracked")}
    kernels = [p for p in params.values() if p.ndim > 1]
    optimizer = TensorFlowRMSprop(
        params.values(),
        config.schedule.learning_rate,
        decay=config.optimizer.rms_decay,
        momentum=config.optimizer.momentum,
        eps=config.optimizer.rms_eps,
    )
    rate = rate_of(config)
    averages = {k: v.detach().clone() for k, v in (params | stats).items()}
    losses = []
    for number, batch in enumerate(batches(STEPS)):
        optimizer.zero_grad()
        loss = _loss(twin, batch, config)
        loss.backward()
        for kernel in kernels:
            kernel.grad.add_(kernel.detach(), alpha=config.optimizer.weight_decay)
        _limit_norm([p.grad for p in params.values()], config.optimizer.clip_norm)
        optimizer.param_groups[0]["lr"] = float(rate(number))
        optimizer.step()
        decay = min(config.step.ema_decay, (1 + number) / (10 + number))
        for key, value in (params | stats).items():
            averages[key].lerp_(value.detach(), 1 - decay)
        losses.append(loss.item())
    numbers = lambda tensors: {k: v.detach().numpy() for k, v in tensors.items()}  # noqa: E731
    return {
        "parameters": numbers(params),
        "statistics": numbers(stats),
        "averaged parameters": numbers({k: averages[k] for k in params}),
        "averaged statistics": numbers({k: averages[k] for k in stats}),
    }, losses


def _limit_norm(grads: list[torch.Tensor], limit: float) -> None:
    """Scales gradients in place, so that their global norm is at most `limit`.

    PyTorch's `clip_grad_norm_` adds 1e-6 to the norm, which is more than the test tolerates.
    """
    norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
    if norm > limit:
        for grad in grads:
            grad.mul_(limit / norm)


def _loss(twin: torch.nn.Module, batch: dict, config: Config) -> torch.Tensor:
    images = augmentation_of(config).prepare(jnp.asarray(batch["image"]))
    outputs = twin(to_nchw(images))
    outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
    labels = torch.from_numpy(batch["label"]).long()
    losses = {
        head: F.cross_entropy(logits, labels, label_smoothing=config.step.label_smoothing)
        for head, logits in outputs.items()
    }
    return losses.pop("logits") + config.step.aux_weight * sum(losses.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3", "xception"])
def test_ten_steps_of_the_recipe(name):
    with jax.enable_x64(True):
        config = config_for(name)
        start = _parameters(name)
        ours, our_losses = train_in_jax(name, config)
        theirs, their_losses = train_in_torch(name, config)
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-8)
    for part in ours:
        assert set(ours[part]) == set(theirs[part])
        for key, value in theirs[part].items():
            error = np.abs(ours[part][key] - value).max() / np.abs(value).max()
            assert error <= 1e-8, f"{part} {key}: {error:.1e}"
    # Ten steps change most numbers little, so comparing the change of each tensor is stricter.
    for key, before in start.items():
        way = theirs["parameters"][key] - before
        error = np.abs(ours["parameters"][key] - before - way).max() / np.abs(way).max()
        assert error <= 1e-8, f"way of {key}: {error:.1e}"


def test_rmsprop_of_both_is_tensorflows():
    """RMSProp of the JAX side and of the PyTorch side match TensorFlow's rule for twenty steps.

    The rule is computed in NumPy, with a falling learning rate. `torch.optim.RMSprop` gives
    different parameters.
    """
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3))
    ours = [torch.nn.Parameter(torch.from_numpy(start.copy()))]
    pytorchs = [torch.nn.Parameter(torch.from_numpy(start.copy()))]
    optimizers = (
        TensorFlowRMSprop(ours, 0.045, decay=0.9, momentum=0.9, eps=1.0),
        torch.optim.RMSprop(pytorchs, 0.045, alpha=0.9, momentum=0.9, eps=1.0),
    )
    schedule = ScheduleOptions(lr_decay=0.5)
    falling = learning_rate(schedule, 32, 5, 100)
    w, square, moved = start.copy(), np.ones_like(start), np.zeros_like(start)
    with jax.enable_x64(True):
        tx = make_optimizer(OptimizerOptions(weight_decay=0.0), falling)
        params = {"kernel": jnp.asarray(start)}
        state = tx.init(params)
        for number in range(20):
            gradient = 3 * rng.normal(size=start.shape)
            rate = float(falling(number))
            square = 0.9 * square + 0.1 * gradient**2
            moved = 0.9 * moved + rate * gradient / np.sqrt(square + 1.0)
            w = w - moved

            updates, state = tx.update({"kernel": jnp.asarray(gradient)}, state, params)
            params = optax.apply_updates(params, updates)
            for optimizer in optimizers:
                (group,) = optimizer.param_groups
                group["lr"] = rate
                group["params"][0].grad = torch.from_numpy(gradient)
                optimizer.step()
            np.testing.assert_allclose(params["kernel"], w, rtol=1e-12)
            np.testing.assert_allclose(ours[0].detach(), w, rtol=1e-12)
    assert np.abs(pytorchs[0].detach().numpy() - w).max() > 0.05


@pytest.mark.parametrize(("option", "value"), [("decay", 1.0), ("momentum", -0.1), ("lr", -1.0)])
def test_numbers_out_of_range(option, value):
    with pytest.raises(ValueError, match=option):
        TensorFlowRMSprop([torch.nn.Parameter(torch.ones(1))], **{option: value})

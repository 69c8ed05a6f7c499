"""What is compiled: the state, a training step, an evaluation step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import inception_jax as ij
from inception_jax.model import Model
from train.config import Config

Tree = Any  # nested dicts of arrays
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a checkpoint holds, as plain arrays."""

    step: jax.Array
    params: Tree  # what is trained
    stats: Tree  # what is not: BatchNorm's statistics, a frozen backbone
    ema_params: Tree
    ema_stats: Tree
    opt_state: optax.OptState


def build_model(config: Config, num_classes: int, in_channels: int) -> Model:
    """Builds the network of a configuration, with its auxiliary heads if their loss counts.

    With a frozen backbone they have nothing to teach.
    """
    has_aux = bool(ij.model_info(config.arch).aux_heads) and not config.freeze_backbone
    return ij.create_model(
        config.arch,
        num_classes=num_classes,
        in_channels=in_channels,
        aux_heads=has_aux and config.aux_weight > 0,
        width_multiplier=config.width_multiplier,
        dtype=jnp.dtype(config.dtype),
        rngs=nnx.Rngs(config.seed),
        dropout=config.dropout,
        bn_momentum=config.bn_momentum,
    )


def split(
    model: Model, *, freeze_backbone: bool = False
) -> tuple[nnx.GraphDef, nnx.GraphDef, Tree, Tree]:
    """Returns the network in training and in evaluation mode, what is trained, and the rest.

    The rest are BatchNorm's statistics. With a frozen backbone all but the classifiers' parameters
    are among it too, and training normalises with the running statistics, as evaluation does.
    """
    trained: Any = nnx.Param
    if freeze_backbone:
        classifiers = [tuple(name.split(".")) for name in model.classifiers]
        trained = lambda path, _: any(path[: len(c)] == c for c in classifiers)  # noqa: E731
    views = (
        nnx.view(model, deterministic=False, use_running_average=freeze_backbone),
        nnx.view(model, deterministic=True, use_running_average=True),
    )
    (train_def, params, rest), (eval_def, *_) = (nnx.split(v, trained, ...) for v in views)
    return train_def, eval_def, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def init_state(params: Tree, stats: Tree, tx: optax.GradientTransformation) -> TrainState:
    """Returns the state at step 0; averages start at the initial values, as TensorFlow's do."""
    # Copies, because a step gives its input buffers away and cannot give one away twice.
    ema_params, ema_stats = jax.tree.map(jnp.copy, (params, stats))
    return TrainState(
        jnp.zeros((), jnp.int32), params, stats, ema_params, ema_stats, tx.init(params)
    )


def make_train_step(
    train_def: nnx.GraphDef,
    tx: optax.GradientTransformation,
    config: Config,
    num_classes: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the step that maps a state and a batch to the next state and its metrics."""

    def loss_fn(params: Tree, state: TrainState, batch: Batch) -> tuple[jax.Array, Any]:
        model = nnx.merge(train_def, params, state.stats)
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        outputs = model(prepare(batch["image"], config), rngs=nnx.Rngs(dropout=key))
        outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
        targets = optax.smooth_labels(
            jax.nn.one_hot(batch["label"], num_classes), config.label_smoothing
        )
        losses = {
            name: optax.softmax_cross_entropy(_wide(logits), targets).mean()
            for name, logits in outputs.items()
        }
        loss = losses.pop("logits") + config.aux_weight * sum(losses.values())
        stats = state.stats
        if not config.freeze_backbone:
            stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return loss, (stats, outputs["logits"])

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (stats, logits)), grads = gradient(state.params, state, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # TensorFlow's ExponentialMovingAverage with num_updates.
        decay = jnp.minimum(config.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        metrics = {
            "loss": loss,
            "accuracy": (logits.argmax(-1) == batch["label"]).mean(),
            "grad_norm": optax.tree.norm(grads),
        }
        state = TrainState(
            state.step + 1,
            params,
            stats,
            _average(state.ema_params, params, decay),
            _average(state.ema_stats, stats, decay),
            opt_state,
        )
        return state, metrics

    return train_step


def make_eval_step(
    eval_def: nnx.GraphDef, config: Config
) -> Callable[[Tree, Tree, Batch], Metrics]:
    """Returns a step that sums, over the images whose mask is 1, hits, loss and count."""

    def eval_step(params: Tree, stats: Tree, batch: Batch) -> Metrics:
        model = nnx.merge(eval_def, params, stats)
        logits = _wide(model(prepare(batch["image"], config)))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        own = jnp.take_along_axis(logits, batch["label"][:, None], axis=1)
        rank = (logits > own).sum(-1)
        sums = {"top1": rank < 1, "top5": rank < 5, "loss": loss, "examples": jnp.ones_like(loss)}
        sums = {name: (value * batch["mask"]).sum() for name, value in sums.items()}
        return {**sums, "prediction": logits.argmax(-1)}

    return eval_step


def prepare(images: jax.Array, config: Config) -> jax.Array:
    """Maps uint8 images to [-1, 1] and resizes them, on the device that trains."""
    shape = (images.shape[0], config.image_size, config.image_size, images.shape[3])
    x = images.astype(jnp.promote_types(jnp.float32, config.dtype)) / 127.5 - 1
    return jax.image.resize(x, shape, "bilinear").astype(config.dtype)


def _average(old: Tree, new: Tree, decay: jax.Array) -> Tree:
    """A step of a moving average, in the form that leaves equal numbers exactly as they are."""
    return jax.tree.map(lambda o, n: o - (1 - decay) * (o - n), old, new)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

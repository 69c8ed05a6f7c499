"""The training state, and the training and evaluation steps, which are functions to jit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from train.engine.augmentation import Augmentation
from train.engine.functional import Forward, Predict, Tree
from train.engine.training_options import StepOptions
from train.hosts.devices import BatchOptions

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[..., Any]
Gradients = Callable[..., tuple[Tree, Tree, Metrics]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The training state: all arrays that a checkpoint stores.

    These are the step, the parameters and other arrays, their moving averages (`ema_*`), and the
    optimiser's state.
    """

    step: jax.Array
    params: Tree  # trained parameters
    stats: Tree  # other arrays: BatchNorm's statistics, a frozen backbone
    ema_params: Tree  # None if nothing is averaged
    ema_stats: Tree
    opt_state: optax.OptState

    @property
    def averaged(self) -> tuple[Tree, Tree]:
        """The parameters and statistics to evaluate and to export: averages, if there are any."""
        if self.ema_params is None:
            return self.params, self.stats
        return self.ema_params, self.ema_stats


def init_state(
    params: Tree, stats: Tree, tx: optax.GradientTransformation, *, averages: bool = True
) -> TrainState:
    """Returns the training state at step 0.

    Args:
        params: trained parameters.
        stats: all other arrays.
        tx: the optimiser.
        averages: keep moving averages, which start at the initial values, as in TensorFlow.
    """
    # Copies, because a step donates its input buffers, and a buffer can be donated only once.
    ema_params, ema_stats = jax.tree.map(jnp.copy, (params, stats)) if averages else (None, None)
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, stats, ema_params, ema_stats, tx.init(params))


def make_loss(
    forward: Forward, augmentation: Augmentation, options: StepOptions, num_classes: int
) -> Loss:
    """Returns a function that augments a group of images and computes their loss.

    The function returns the loss, and a tuple of BatchNorm's new statistics and the metrics. (For
    groups, see `make_gradients`.)
    """

    def loss_fn(params: Tree, state: TrainState, images: Any, labels: Any, key: Any) -> Any:
        augmenting, mixing, dropping = jax.random.split(key, 3)
        x = augmentation.augment(images, augmenting)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, num_classes), options.label_smoothing)
        x, targets = augmentation.mix(x, targets, mixing)
        outputs, stats = forward(params, state.stats, x, dropping)
        losses = {
            name: optax.softmax_cross_entropy(_wide(logits), targets).mean()
            for name, logits in outputs.items()
        }
        logits = outputs["logits"]
        plain = _unsmoothed(losses["logits"], _wide(logits), options.label_smoothing)
        loss = losses.pop("logits") + options.aux_weight * sum(losses.values())
        hits = (logits.argmax(-1) == labels).mean()
        return loss, (stats, {"loss": loss, "cross_entropy": plain, "accuracy": hits})

    return loss_fn


def make_gradients(
    loss_fn: Loss,
    options: BatchOptions,
    seed: int,
    spread: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Gradients:
    """Returns a function for the first half of a step: gradients, statistics, metrics of a batch.

    A batch is split into groups. Each group has its own BatchNorm statistics, mixed images and
    random numbers, like a replica in data parallelism. The results are means over the groups. The
    batch is computed in `grad_accum` parts, one after another. The groups of a part are computed in
    parallel. For a fixed group size, the number of parts changes the results only by rounding.

    Args:
        loss_fn: function from `make_loss`.
        options: number of parts, and size of a group.
        seed: seed of all random numbers.
        spread: function that shards a part [groups, images, ...] over the devices.
    """
    parts = options.grad_accum

    def of_groups(params: Tree, state: TrainState, images: Any, labels: Any, keys: Any) -> Any:
        """Returns the means over groups of the loss, and of a tuple of statistics and metrics.

        `images` and `labels` are [g, n, ...]: g groups of n images. A single group needs no `vmap`,
        and compiles faster without it.
        """
        if len(labels) == 1:
            return loss_fn(params, state, images[0], labels[0], keys[0])
        each = jax.vmap(loss_fn, in_axes=(None, None, 0, 0, 0))
        return jax.tree.map(lambda x: x.mean(0), each(params, state, images, labels, keys))

    def gradients(
        state: TrainState, batch: Batch, first_group: int | jax.Array = 0
    ) -> tuple[Tree, Tree, Metrics]:
        size = options.bn_group or len(batch["label"]) // parts
        groups = len(batch["label"]) // size
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        keys = jax.vmap(lambda g: jax.random.fold_in(key, g))(first_group + jnp.arange(groups))
        images, labels, keys = (
            x.reshape(parts, groups // parts, *shape)
            for x, shape in (
                (batch["image"], (-1, *batch["image"].shape[1:])),
                (batch["label"], (-1,)),
                (keys, ()),
            )
        )

        def of_part(images: Any, labels: Any, keys: Any) -> Any:
            value_and_grad = jax.value_and_grad(of_groups, has_aux=True)
            (_, out), grads = value_and_grad(
                state.params, state, spread(images), spread(labels), keys
            )
            return grads, *out

        if parts == 1:
            return of_part(images[0], labels[0], keys[0])
        totals, _ = jax.lax.scan(
            lambda carry, part: (jax.tree.map(jnp.add, carry, of_part(*part)), None),
            jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype),
                jax.eval_shape(of_part, images[0], labels[0], keys[0]),
            ),
            (images, labels, keys),
        )
        return jax.tree.map(lambda x: x / parts, totals)

    return gradients


def make_train_step(
    gradients: Gradients, tx: optax.GradientTransformation, options: StepOptions
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the training step: it maps a state and a batch to the next state and the metrics."""

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return update(state, *gradients(state, batch), tx, options)

    return train_step


def update(
    state: TrainState,
    grads: Tree,
    stats: Tree,
    metrics: Metrics,
    tx: optax.GradientTransformation,
    options: StepOptions,
    *,
    seen: Tree = None,
    trained: Tree = None,
) -> tuple[TrainState, Metrics]:
    """Computes the second half of a step: the update.

    Args:
        state: state before the step.
        grads: gradients of the parameters.
        stats: BatchNorm's new statistics; None to keep the old ones.
        metrics: metrics of the batch.
        tx: the optimiser.
        options: options of the step.
        seen: parameters that the optimiser is given; None for those of the state.
        trained: tree of bools with the structure of the parameters, False for frozen ones; None if
            all are trained.

    Returns:
        The next state, and the metrics with the norm of the gradient.
    """
    stats = state.stats if stats is None else stats
    seen = state.params if seen is None else seen
    updates, opt_state = tx.update(grads, state.opt_state, seen)
    params = optax.apply_updates(state.params, updates)
    if trained is not None:
        params = jax.tree.map(lambda n, o, own: n if own else o, params, state.params, trained)
    # TensorFlow's ExponentialMovingAverage with num_updates.
    decay = jnp.minimum(options.ema_decay, (1.0 + state.step) / (10.0 + state.step))
    ema_params, ema_stats = state.ema_params, state.ema_stats
    if ema_params is not None:
        ema_params = _average(state.ema_params, params, decay)
        ema_stats = _average(state.ema_stats, stats, decay)
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
    new = TrainState(state.step + 1, params, stats, ema_params, ema_stats, opt_state)
    if options.on_nan == "skip":
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        kept = dataclasses.replace(state, step=new.step)
        new = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, kept)
    return new, metrics


def make_eval_step(
    predict: Predict, augmentation: Augmentation
) -> Callable[[Tree, Tree, Batch], Metrics]:
    """Returns the evaluation step, which maps parameters, statistics and a batch to metrics.

    The metrics are sums over the images with mask 1 (top-1 and top-5 hits, loss, number of images),
    and each image's prediction, probability, label and mask. If images have several crops
    [n, crops, h, w, c], the probabilities are averaged over the crops, as in the papers.
    """

    def eval_step(params: Tree, stats: Tree, batch: Batch) -> Metrics:
        images, labels, mask = batch["image"], batch["label"], batch["mask"]
        views = images.shape[1] if images.ndim == 5 else 1
        x = augmentation.prepare(images.reshape(-1, *images.shape[-3:]))
        logits = _wide(predict(params, stats, x))
        if views > 1:
            each = jax.nn.log_softmax(logits).reshape(-1, views, logits.shape[-1])
            logits = jax.nn.logsumexp(each, axis=1) - jnp.log(views)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        own = jnp.take_along_axis(logits, labels[:, None], axis=1)
        rank = (logits > own).sum(-1)
        sums = {"top1": rank < 1, "top5": rank < 5, "loss": loss, "examples": jnp.ones_like(loss)}
        sums = {name: jnp.where(mask > 0, value, 0).sum() for name, value in sums.items()}
        confidence = jax.nn.softmax(logits).max(-1)
        each = {"prediction": logits.argmax(-1), "confidence": confidence}
        return {**sums, **each, "label": labels, "mask": mask}

    return eval_step


def _average(old: Tree, new: Tree, decay: jax.Array) -> Tree:
    """Returns an updated moving average, which is exactly `old` where `new` equals `old`."""
    return jax.tree.map(lambda o, n: o - (1 - decay) * (o - n), old, new)


def _unsmoothed(loss: jax.Array, logits: jax.Array, smoothing: float) -> jax.Array:
    """Returns the cross-entropy without label smoothing, comparable with the evaluation's loss.

    Labels that Mixup or CutMix has mixed remain mixed: the cross-entropy is linear in the targets,
    so the smoothing term can be subtracted.
    """
    if not smoothing:
        return loss
    uniform = -jax.nn.log_softmax(lax.stop_gradient(logits)).mean()
    return (lax.stop_gradient(loss) - smoothing * uniform) / (1 - smoothing)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

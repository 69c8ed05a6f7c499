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
from inception_jax.nn.model import Model
from inception_jax.nn.remat import rematerialised
from inception_jax.nn.rewrites import rewritten
from train.config.options import Config
from train.engine import inputs

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
    ema_params: Tree  # None where nothing is averaged
    ema_stats: Tree
    opt_state: optax.OptState

    @property
    def averaged(self) -> tuple[Tree, Tree]:
        """The parameters and statistics to evaluate and to keep."""
        if self.ema_params is None:
            return self.params, self.stats
        return self.ema_params, self.ema_stats


def build_model(config: Config, num_classes: int, in_channels: int) -> Model:
    """Builds the network of a configuration, with its auxiliary heads if their loss counts.

    With a frozen backbone they have nothing to teach.
    """
    has_aux = bool(ij.model_info(config.arch).aux_heads) and not config.freeze_backbone
    depth: dict[str, Any] = {} if config.drop_path is None else {"drop_path": config.drop_path}
    return ij.create_model(
        config.arch,
        num_classes=num_classes,
        in_channels=in_channels,
        aux_heads=has_aux and config.aux_weight > 0,
        width_multiplier=config.width_multiplier,
        dtype=jnp.dtype(config.dtype),
        param_dtype=jnp.promote_types(config.dtype, jnp.float32),
        rngs=nnx.Rngs(config.seed),
        dropout=config.dropout,
        bn_momentum=config.bn_momentum,
        **depth,
    )


def split(
    model: Model, *, freeze_backbone: bool = False, wide_gradients: bool = True
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
        nnx.view(
            model,
            deterministic=False,
            use_running_average=freeze_backbone,
            wide_gradients=wide_gradients,
        ),
        nnx.view(model, deterministic=True, use_running_average=True),
    )
    (train_def, params, rest), (eval_def, *_) = (nnx.split(v, trained, ...) for v in views)
    return train_def, eval_def, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def init_state(
    params: Tree, stats: Tree, tx: optax.GradientTransformation, *, averages: bool = True
) -> TrainState:
    """Returns the state at step 0; averages start at the initial values, as TensorFlow's do."""
    # Copies, because a step gives its input buffers away and cannot give one away twice.
    ema_params, ema_stats = jax.tree.map(jnp.copy, (params, stats)) if averages else (None, None)
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, stats, ema_params, ema_stats, tx.init(params))


def make_train_step(
    train_def: nnx.GraphDef,
    tx: optax.GradientTransformation,
    config: Config,
    num_classes: int,
    spread: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the step that maps a state and a batch to the next state and its metrics.

    Args:
        train_def: the network in training mode.
        tx: the optimiser.
        config: of the run.
        num_classes: size of the output.
        spread: lays a part of a batch [groups, images, ...] over the devices.
    """
    gradients = make_gradients(train_def, config, num_classes, spread)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        grads, stats, metrics = gradients(state, batch)
        return update(state, grads, stats, metrics, tx, config)

    return train_step


def make_gradients(
    train_def: nnx.GraphDef,
    config: Config,
    num_classes: int,
    spread: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Callable[..., tuple[Tree, Tree, Metrics]]:
    """Returns the first half of a step: gradients, statistics and metrics of a batch.

    A batch is cut into groups, each of which has BatchNorm statistics, mixed images and random
    numbers of its own, as a replica has; all that comes out is the mean over the groups. Parts of
    the batch, `grad_accum` of them, are computed one after another, the groups of a part at once.
    So a batch in parts gives what one with as many groups gives, to rounding.
    """
    parts = config.grad_accum

    loss_fn = _make_loss(train_def, config, num_classes)

    def of_groups(params: Tree, state: TrainState, images: Any, labels: Any, keys: Any) -> Any:
        """The mean over groups [g, n, ...]; without `vmap` for one, which compiles faster."""
        if len(labels) == 1:
            return loss_fn(params, state, images[0], labels[0], keys[0])
        each = jax.vmap(loss_fn, in_axes=(None, None, 0, 0, 0))
        return jax.tree.map(lambda x: x.mean(0), each(params, state, images, labels, keys))

    def gradients(
        state: TrainState, batch: Batch, first_group: int | jax.Array = 0
    ) -> tuple[Tree, Tree, Metrics]:
        size = config.bn_group or len(batch["label"]) // parts
        groups = len(batch["label"]) // size
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
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
        grads, stats, metrics = jax.tree.map(lambda x: x / parts, totals)
        # A mean of equal numbers is not always equal to them: what is not trained stays as it is.
        return grads, state.stats if config.freeze_backbone else stats, metrics

    return gradients


def _make_loss(train_def: nnx.GraphDef, config: Config, num_classes: int) -> Callable[..., Any]:
    """Returns the loss of a group of images, with the statistics and metrics that come of it."""

    def forward(params: Tree, stats: Tree, x: jax.Array, key: Any) -> tuple[Any, Tree]:
        with rewritten(*config.rewrites):
            model = nnx.merge(train_def, params, stats)
            outputs = model(x, rngs=nnx.Rngs(dropout=key))
        if not config.freeze_backbone:
            stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return outputs if isinstance(outputs, dict) else {"logits": outputs}, stats

    if config.remat:
        forward = rematerialised(forward)

    def loss_fn(params: Tree, state: TrainState, images: Any, labels: Any, key: Any) -> Any:
        augmenting, mixing, dropping = jax.random.split(key, 3)
        x = inputs.augment(images, config, augmenting)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, num_classes), config.label_smoothing)
        x, targets = inputs.mix(x, targets, config, mixing)
        outputs, stats = forward(params, state.stats, x, dropping)
        losses = {
            name: optax.softmax_cross_entropy(_wide(logits), targets).mean()
            for name, logits in outputs.items()
        }
        logits = outputs["logits"]
        loss = losses.pop("logits") + config.aux_weight * sum(losses.values())
        hits = (logits.argmax(-1) == labels).mean()
        return loss, (stats, {"loss": loss, "accuracy": hits})

    return loss_fn


def update(
    state: TrainState,
    grads: Tree,
    stats: Tree,
    metrics: Metrics,
    tx: optax.GradientTransformation,
    config: Config,
) -> tuple[TrainState, Metrics]:
    """The second half of a step: the next state, and the metrics with the gradient's norm."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # TensorFlow's ExponentialMovingAverage with num_updates.
    decay = jnp.minimum(config.ema_decay, (1.0 + state.step) / (10.0 + state.step))
    ema_params, ema_stats = state.ema_params, state.ema_stats
    if ema_params is not None:
        ema_params = _average(state.ema_params, params, decay)
        ema_stats = _average(state.ema_stats, stats, decay)
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
    new = TrainState(state.step + 1, params, stats, ema_params, ema_stats, opt_state)
    if config.on_nan == "skip":
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        kept = dataclasses.replace(state, step=new.step)
        new = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, kept)
    return new, metrics


def make_eval_step(
    eval_def: nnx.GraphDef, config: Config
) -> Callable[[Tree, Tree, Batch], Metrics]:
    """Returns a step that sums, over the images whose mask is 1, hits, loss and count.

    Of several views of an image [n, views, h, w, c] it averages the probabilities, as the papers
    do. It returns each image's prediction, label and mask too.
    """

    def eval_step(params: Tree, stats: Tree, batch: Batch) -> Metrics:
        images, labels, mask = batch["image"], batch["label"], batch["mask"]
        views = images.shape[1] if images.ndim == 5 else 1
        x = inputs.prepare(images.reshape(-1, *images.shape[-3:]), config)
        with rewritten(*config.rewrites):
            logits = _wide(nnx.merge(eval_def, params, stats)(x))
        if views > 1:
            each = jax.nn.log_softmax(logits).reshape(-1, views, logits.shape[-1])
            logits = jax.nn.logsumexp(each, axis=1) - jnp.log(views)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        own = jnp.take_along_axis(logits, labels[:, None], axis=1)
        rank = (logits > own).sum(-1)
        sums = {"top1": rank < 1, "top5": rank < 5, "loss": loss, "examples": jnp.ones_like(loss)}
        sums = {name: jnp.where(mask > 0, value, 0).sum() for name, value in sums.items()}
        return {**sums, "prediction": logits.argmax(-1), "label": labels, "mask": mask}

    return eval_step


def _average(old: Tree, new: Tree, decay: jax.Array) -> Tree:
    """A step of a moving average, in the form that leaves equal numbers exactly as they are."""
    return jax.tree.map(lambda o, n: o - (1 - decay) * (o - n), old, new)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

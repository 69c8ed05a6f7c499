"""Networks of this library and of others, as functions that benchmarks can run repeatedly.

Each function is built in its own process, which imports only the libraries that it needs, after
its environment variables are set. Therefore no library sees the settings or threads of another one.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workers import Run, UnavailableError
from inception_jax.nn.rewrite_names import DEFAULT_REWRITES, REWRITES, Rewrite

RATE = 1e-4  # learning rate, low enough that repeated steps do not make the loss overflow

KERAS = {
    "inception_v3": "InceptionV3",
    "inception_resnet_v2": "InceptionResNetV2",
    "xception": "Xception",
}
TIMM = {"xception": "legacy_xception"}  # networks that have another name in timm


@dataclasses.dataclass(frozen=True)
class Task:
    """Network, inputs and settings that are the same for all implementations.

    Attributes:
        arch: name of the network.
        weights: path of a file of parameters, for this library and its PyTorch twin.
        images: float32 images [n, h, w, c].
        labels: int32 labels [n].
        cores: number of threads.
        dtype: dtype in which the network computes; parameters are float32.
    """

    arch: str
    weights: Path
    images: np.ndarray
    labels: np.ndarray
    cores: int
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Implementation:
    """An implementation that can run a task.

    Attributes:
        about: description for readers of the results.
        build: function that takes a task and returns a function that runs the task once. It raises
            `UnavailableError` if the implementation cannot run.
        ours: whether it uses the task's weights and dtype, so that its results can be compared.
        environment: environment variables of the implementation's process.
    """

    about: str
    build: Callable[[Task], Run]
    ours: bool = True
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def random_model(arch: str) -> Any:
    """Returns a network with random parameters and statistics, without compiling anything.

    The parameters preserve the scale of activations. Smaller activations could become denormal
    numbers, with which processors are slow.
    """
    import jax
    from flax import nnx

    import inception_jax as ij

    model = nnx.eval_shape(lambda: ij.create_model(arch, **_nothing_random(arch)))
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        kind = path[-1].key
        if kind == "kernel":
            values = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        elif kind in ("scale", "var"):
            values = rng.uniform(0.8, 1.2, leaf.shape)
        else:
            values = rng.normal(0, 0.1, leaf.shape)
        return jax.numpy.asarray(values, leaf.dtype)

    state = nnx.to_pure_dict(nnx.state(model))
    nnx.update(model, jax.tree_util.tree_map_with_path(fill, state))
    return model


def _nothing_random(arch: str) -> dict[str, Any]:
    """Returns the network's options, by name, that turn off dropout and stochastic depth."""
    import inception_jax as ij

    return {option: 0.0 for option in ij.model_info(arch).options if "drop" in option}


def _model(task: Task) -> Any:
    import inception_jax as ij

    options = _nothing_random(task.arch)
    return ij.create_model(task.arch, weights=task.weights, dtype=task.dtype, **options)


def jax_inference(task: Task, *, rewrites: Sequence[Rewrite]) -> Run:
    """Returns a function that runs the network under `jax.jit`.

    Args:
        task: network and inputs.
        rewrites: names of the rewrites in `inception_jax.nn.rewrites` to apply.
    """
    import jax
    from flax import nnx

    import inception_jax as ij

    graphdef, state = nnx.split(_model(task))

    @jax.jit
    def predict(state: Any, images: jax.Array) -> Any:
        with ij.rewritten(*rewrites):
            return nnx.merge(graphdef, state)(images)

    images = jax.device_put(task.images)
    return lambda: np.asarray(predict(state, images))


def jit_predict(task: Task, *, dtype: str | None = None) -> Run:
    """Returns a function that runs the network by `inception_jax.jit_predict`.

    Args:
        task: network and inputs.
        dtype: dtype to compute in; None: the network's own.
    """
    import jax

    import inception_jax as ij

    ij.keep_freed_memory()
    predict = ij.jit_predict(_model(task), dtype=dtype)
    images = jax.device_put(task.images)
    return lambda: np.asarray(predict(images))


def jax_training(task: Task, *, rewrites: Sequence[Rewrite]) -> Run:
    """Returns a function that runs a jitted step of gradient descent and returns the loss.

    The step reuses the memory of its state.

    Args:
        task: network and inputs.
        rewrites: names of the rewrites in `inception_jax.nn.rewrites` to apply.
    """
    loss_fn, params, stats = jax_loss(task, rewrites=rewrites)
    return _repeated(descent(loss_fn), params, stats, task)


def jax_as_trained(task: Task) -> Run:
    """Returns a function that runs a step of gradient descent as `train/main.py` compiles it.

    The step has all rewrites of `inception_jax.nn.rewrites` and uses oneDNN where that is faster.
    The process reuses freed memory instead of returning it to the kernel.
    """
    import inception_jax as ij
    from inception_jax.nn.cpu_libraries import call_onednn, training_options
    from inception_jax.nn.forms import native_convolutions

    ij.keep_freed_memory()
    options = training_options(_model(task))
    loss_fn, params, stats = jax_loss(task, rewrites=REWRITES)
    if call_onednn(options):
        loss_fn = native_convolutions()(loss_fn)
    return _repeated(descent(loss_fn, options), params, stats, task)


def jax_loss(task: Task, *, rewrites: Sequence[Rewrite]) -> tuple[Callable[..., Any], Any, Any]:
    """Returns the loss function for `descent`, and the network's parameters and statistics."""
    import optax
    from flax import nnx

    import inception_jax as ij
    from train.engine.functional import split

    train_def, _, params, stats = split(_model(task))

    def loss_fn(params: Any, stats: Any, images: Any, labels: Any) -> Any:
        with ij.rewritten(*rewrites):
            model = nnx.merge(train_def, params, stats)
            logits = model(images, rngs=nnx.Rngs(dropout=0)).astype("float32")
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return loss_fn, params, stats


def descent(loss_fn: Callable[..., Any], options: dict[str, Any] | None = None) -> Any:
    """Returns a jitted step of gradient descent.

    The step takes parameters, other state, images and labels, and reuses the memory of the
    parameters and the other state. It returns the new parameters, the new other state and the loss.

    Args:
        loss_fn: function of parameters, other state, images and labels; returns the loss and the
            new other state.
        options: options of the compiler.
    """
    import jax

    @partial(jax.jit, donate_argnums=(0, 1), compiler_options=options or None)
    def step(params: Any, rest: Any, images: jax.Array, labels: jax.Array) -> Any:
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, rest), grads = value_and_grad(params, rest, images, labels)
        return jax.tree.map(lambda p, g: p - RATE * g, params, grads), rest, loss

    return step


def _repeated(step: Any, params: Any, rest: Any, task: Task) -> Run:
    import jax

    images, labels = jax.device_put((task.images, task.labels))

    def run() -> np.ndarray:
        nonlocal params, rest
        params, rest, loss = jax.block_until_ready(step(params, rest, images, labels))
        return np.asarray(loss)

    return run


def _keras_model(task: Task) -> Any:
    if task.arch not in KERAS:
        raise UnavailableError("keras.applications has no such network")
    keras = _imported("keras")
    if keras.backend.backend() != "jax":
        raise UnavailableError(f"Keras computes with {keras.backend.backend()} here")
    build = getattr(keras.applications, KERAS[task.arch])
    return build(weights=None, classifier_activation=None, input_shape=task.images.shape[1:])


def keras_inference(task: Task) -> Run:
    """Returns a function that runs Keras' network by `stateless_call` under `jax.jit`."""
    import jax

    model = _keras_model(task)
    params = [variable.value for variable in model.trainable_variables]
    rest = [variable.value for variable in model.non_trainable_variables]

    @jax.jit
    def predict(params: Any, rest: Any, images: jax.Array) -> Any:
        return model.stateless_call(params, rest, images, training=False)[0]

    images = jax.device_put(task.images)
    return lambda: np.asarray(predict(params, rest, images))


def keras_training(task: Task) -> Run:
    """Returns a function that runs the step of `jax_training` on Keras' network."""
    import optax

    model = _keras_model(task)
    params = [variable.value for variable in model.trainable_variables]
    rest = [variable.value for variable in model.non_trainable_variables]

    def loss_fn(params: Any, rest: Any, images: Any, labels: Any) -> Any:
        logits, rest = model.stateless_call(params, rest, images, training=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), rest

    return _repeated(descent(loss_fn), params, rest, task)


def _twin(task: Task) -> Any:
    import safetensors.torch
    import torch

    import reference_torch

    torch.set_num_threads(task.cores)
    weights = safetensors.torch.load_file(task.weights)
    return reference_torch.create_model(task.arch, weights=weights, **_nothing_random(task.arch))


def _torch_images(task: Task, *, channels_last: bool) -> Any:
    import torch

    images = torch.from_numpy(np.ascontiguousarray(task.images.transpose(0, 3, 1, 2)))
    return images.to(memory_format=torch.channels_last) if channels_last else images


def torch_inference(task: Task, *, channels_last: bool, compiled: bool = False) -> Run:
    """Returns a function that runs the PyTorch twin, in eager mode or with `torch.compile`."""
    import torch

    model = _twin(task)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    return _torch_run(torch.compile(model) if compiled else model, task, channels_last)


def _torch_run(model: Any, task: Task, channels_last: bool) -> Run:
    import torch

    images = _torch_images(task, channels_last=channels_last)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model(images).numpy()

    return run


def torch_training(task: Task, *, channels_last: bool) -> Run:
    """Returns a function that runs the step of `jax_training` on the PyTorch twin in eager mode."""
    import torch

    model = _twin(task).train()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    images = _torch_images(task, channels_last=channels_last)
    labels = torch.from_numpy(task.labels.astype(np.int64))
    descent = torch.optim.SGD(model.parameters(), lr=RATE)

    def run() -> np.ndarray:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        descent.zero_grad()
        loss.backward()
        descent.step()
        return loss.detach().numpy()

    return run


def timm_inference(task: Task) -> Run:
    """Returns a function that runs timm's network in eager mode and channels last."""
    import torch

    timm = _imported("timm")
    name = TIMM.get(task.arch, task.arch)
    if not timm.is_model(name):
        raise UnavailableError("timm has no such network")
    torch.set_num_threads(task.cores)
    model = timm.create_model(name, pretrained=False).eval()
    return _torch_run(model.to(memory_format=torch.channels_last), task, channels_last=True)


def onnxruntime_inference(task: Task) -> Run:
    """Returns a function that runs the network's ONNX file in onnxruntime.

    `inception_jax.export` writes the file.
    """
    onnxruntime = _imported("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.cores
    with tempfile.TemporaryDirectory() as folder:
        path = _onnx_file(task, Path(folder))
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: task.images})[0]


def openvino_inference(task: Task) -> Run:
    """Returns a function that runs the network's ONNX file in OpenVINO, in float32.

    `inception_jax.export` writes the file.
    """
    openvino = _imported("openvino")
    settings = {"INFERENCE_NUM_THREADS": task.cores, "INFERENCE_PRECISION_HINT": "f32"}
    with tempfile.TemporaryDirectory() as folder:
        model = openvino.Core().read_model(_onnx_file(task, Path(folder)))
        model.reshape(list(task.images.shape))
        compiled = openvino.compile_model(model, "CPU", settings)
    return lambda: compiled(task.images)[0]


def _onnx_file(task: Task, folder: Path) -> Path:
    import inception_jax as ij

    _imported("onnx")
    path = folder / "network.onnx"
    ij.export(_model(task), path, format="onnx", image_size=task.images.shape[1:3])
    return path


def _imported(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise UnavailableError(f"{name} is not installed")
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        raise UnavailableError(f"{name} cannot be imported: {error}") from error


BASELINE = "torch_channels_last"

# Keras' applications run on the same backend as this library.
_KERAS = {"KERAS_BACKEND": "jax"}

INFERENCE: dict[str, Implementation] = {
    "jax_plain": Implementation(
        "`jax.jit` of the network, no arithmetic rewritten", partial(jax_inference, rewrites=())
    ),
    "jax_rewritten": Implementation(
        "`jax.jit` of the network as it is by default",
        partial(jax_inference, rewrites=DEFAULT_REWRITES),
    ),
    "jit_predict": Implementation(
        "`inception_jax.jit_predict`, after `inception_jax.keep_freed_memory()`", jit_predict
    ),
    "bfloat16": Implementation(
        '`jit_predict` with `dtype="bfloat16"`, whose logits differ by 0.5 to 0.8 % of the largest',
        partial(jit_predict, dtype="bfloat16"),
        False,
    ),
    "keras": Implementation(
        "`keras.applications`, `stateless_call` under `jax.jit`", keras_inference, False, _KERAS
    ),
    "torch": Implementation(
        "the PyTorch twin, eager", partial(torch_inference, channels_last=False)
    ),
    "torch_channels_last": Implementation(
        "the PyTorch twin, eager, channels last", partial(torch_inference, channels_last=True)
    ),
    "torch_compile": Implementation(
        "the PyTorch twin, `torch.compile`, channels last",
        partial(torch_inference, channels_last=True, compiled=True),
    ),
    "timm": Implementation("timm's network, eager, channels last", timm_inference, False),
    "onnxruntime": Implementation(
        "the file that `inception_jax.export` writes, in onnxruntime", onnxruntime_inference
    ),
    "openvino": Implementation(
        "the file that `inception_jax.export` writes, in OpenVINO, in float32", openvino_inference
    ),
}

TRAINING: dict[str, Implementation] = {
    "jax_plain": Implementation(
        "`jax.jit` of the step, no arithmetic rewritten", partial(jax_training, rewrites=())
    ),
    "jax_rewritten": Implementation(
        "`jax.jit` of the step, the network as it is by default",
        partial(jax_training, rewrites=DEFAULT_REWRITES),
    ),
    "jax_as_trained": Implementation(
        "the step as `train/main.py` compiles it: with `gradients` too, with oneDNN where that is "
        "faster, and with freed memory kept",
        jax_as_trained,
    ),
    "keras": Implementation(
        "the same step of `keras.applications`, by `stateless_call`", keras_training, False, _KERAS
    ),
    "torch": Implementation(
        "the PyTorch twin, eager", partial(torch_training, channels_last=False)
    ),
    "torch_channels_last": Implementation(
        "the PyTorch twin, eager, channels last", partial(torch_training, channels_last=True)
    ),
}

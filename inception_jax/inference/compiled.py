"""Compiles networks for fast inference, and runs them on all cores or devices of the machine."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from inception_jax.inference.folding import fold
from inception_jax.nn.cpu_libraries import CompilerOptions, call_onednn, inference_options
from inception_jax.nn.forms import native_convolutions
from inception_jax.nn.layers import check_is_array
from inception_jax.nn.model import Model

_LITTLE_MEMORY: CompilerOptions = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
_MOST_AT_ONCE = 8  # images in a piece that a CPU thread computes
_MOST_COPIES = 4  # programs that contain the parameters
Predict = Callable[[ArrayLike], jax.Array]
Tree = TypeVar("Tree")  # a pytree of arrays; the first axis is the batch


def jit_predict(
    model: Model, *, parts: int | None = None, dtype: DTypeLike | None = None
) -> Predict:
    """Returns a compiled function that classifies images, for repeated use.

    BatchNorms are folded (see `folding.fold`), except on TPUs: there the compiler does this, and a
    folded Xception would take 5 % more time. On CPUs, oneDNN computes the convolutions if XLA can
    call it (see `nn.cpu_libraries`).

    The batch is split into parts that run in parallel. On accelerators there is one part for each
    device of this process. On a CPU there is one part, a thread, for each core, because XLA
    computes some convolutions on one core only. A thread computes at most eight images at once.
    Each new batch size is compiled once. With oneDNN, each of the first four takes memory for a
    copy of the parameters.

    Args:
        model: network to compile, in any mode. The function uses evaluation mode. Later changes to
            the model do not affect it.
        parts: number of parts; None: as many as there are cores or devices.
        dtype: dtype in which the network computes; None: the dtype that it was created with.
            Parameters keep their dtype. bfloat16 is fast on accelerators. On CPUs with AMX or
            AVX512-BF16, it takes half of float32's time if oneDNN is used. It is slow on other
            CPUs. It has 8 significant bits: with random weights, the logits of the six networks of
            docs/performance.md differ from float32's by 0.5 to 0.8 % of the largest logit.

    Returns:
        A function that maps images [n, h, w, c], normalised as `model_info` says, to logits
        [n, num_classes]. Images may have any float dtype. Logits have the dtype in which the
        network computes. On CPUs, they are NaN for an image with NaN or infinity.

    Raises:
        ValueError: for less than one part, more parts than accelerators, parameters narrower than
            float32 or, on CPUs, parameters with NaN or infinity. The returned function raises it
            for images that the network does not support.
    """
    return jit_call(model if dtype is None else _computing_in(model, dtype), _logits, parts=parts)


def jit_call(
    model: Model, call: Callable[[Model, jax.Array], Tree], *, parts: int | None = None
) -> Callable[[ArrayLike], Tree]:
    """Returns a compiled function, like `jit_predict`, but for any computation with the model.

    Args:
        model: see `jit_predict`.
        call: function that maps the model, possibly folded, and images [n, h, w, c] to a pytree of
            arrays [n, ...].
        parts: number of parts of a batch that run in parallel; None: as many as there are cores or
            devices.

    Returns:
        A function of images [n, h, w, c] that returns the result of `call`.

    Raises:
        ValueError: for less than one part, more parts than accelerators, or parameters
            narrower than float32.
    """
    return jit_frozen(frozen(model), call, parts=parts)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A copy of a network for inference, in evaluation mode, split as `nnx.split` does.

    "Frozen" means that later changes to the network do not affect the copy. BatchNorms are folded
    into convolutions (see `folding.fold`), except on TPUs.

    Attributes:
        graphdef: structure of the network. `nnx.merge(graphdef, params)` is the network.
        params: parameters of the network, a pure dict of arrays.
        options: compiler options that make the network fast on this machine.
    """

    graphdef: Any
    params: dict[str, Any]
    options: CompilerOptions

    @property
    def onednn(self) -> bool:
        """Whether oneDNN computes the convolutions."""
        return call_onednn(self.options)


def frozen(model: Model) -> Frozen:
    """Returns a copy of a network for inference, in evaluation mode; see `Frozen`.

    BatchNorms are folded, except on TPUs. The copy keeps no reference to `model`.

    Raises:
        ValueError: if BatchNorms are folded and parameters are narrower than float32. On CPUs, also
            if a parameter has NaN or infinity, which ReLU could hide (see `_with_nans`).
    """
    model = model.eval_view()
    platform = jax.local_devices()[0].platform
    options = inference_options(model) if platform == "cpu" else {}
    graphdef, params = nnx.split(model if platform == "tpu" else fold(model))
    if platform == "cpu":
        _check_finite(params)
    return Frozen(graphdef, nnx.to_pure_dict(params), options)


def _check_finite(params: nnx.State) -> None:
    for path, leaf in nnx.to_flat_state(params):
        if not np.isfinite(np.asarray(leaf[...])).all():
            raise ValueError(
                f"{'.'.join(map(str, path))} has NaN or infinity, after folding of BatchNorms. Use "
                "weights whose parameters are finite"
            )


def jit_frozen(
    network: Frozen,
    call: Callable[[Model, jax.Array], Tree],
    *,
    parts: int | None = None,
    save_memory: bool = False,
) -> Callable[[ArrayLike], Tree]:
    """Compiles a computation with a copy of a network that `frozen` returned.

    `jit_call` does the same with a network, which it first copies with `frozen`.

    Args:
        network: copy of a network for inference, see `Frozen`.
        call: function of the network and images [n, h, w, c], see `jit_call`.
        parts: number of parts of a batch that run in parallel; None: as many as there are cores or
            devices.
        save_memory: whether XLA, on a CPU, orders the operations so that temporary arrays take
            little memory, not so that independent operations can run at once.

    Returns:
        A function of images [n, h, w, c] that returns the result of `call`.

    Raises:
        ValueError: for less than one part, or more parts than accelerators.
    """
    devices = jax.local_devices()
    on_cpu = devices[0].platform == "cpu"
    if parts is None:
        parts = cores() if on_cpu else len(devices)
    if parts < 1 or (not on_cpu and parts > len(devices)):
        most = "" if on_cpu else f" and at most {len(devices)}, the number of devices"
        raise ValueError(f"parts must be at least 1{most}; got {parts}")
    if on_cpu:
        predict = _in_threads(_compiler(network, call, save_memory=save_memory), parts)
    else:
        compute = jax.jit(_merged(network, call))
        if parts > 1:
            predict = _on(devices[:parts], compute, network.params)
        else:
            predict = functools.partial(compute, network.params)

    def checked(images: ArrayLike) -> Any:
        check_is_array(images)
        return predict(images)

    return checked


def _merged(network: Frozen, call: Callable) -> Callable:
    """Returns a function of the parameters and the images that calls `call` with the network."""

    def merged(state: dict, images: jax.Array) -> Any:
        with native_convolutions() if network.onednn else contextlib.nullcontext():
            return call(nnx.merge(network.graphdef, state), images)

    return merged


def _with_nans(merged: Callable) -> Callable:
    """Returns `merged` with NaN as the results of images that have NaN or infinity.

    oneDNN and YNNPACK compute the ReLU of NaN as 0. Such images would get usual results. Results
    that are integers or booleans cannot be NaN and stay as they are.
    """

    def marked(state: dict, images: jax.Array) -> Any:
        results = merged(state, images)
        if not jnp.issubdtype(images.dtype, jnp.inexact):
            return results
        # Rows first: XLA's loop over a whole image would take several times as long.
        zeros = 0 * images.astype(jnp.promote_types(images.dtype, jnp.float32))
        mark = zeros.sum(1).sum((1, 2))

        def add(result: jax.Array) -> jax.Array:
            if not jnp.issubdtype(result.dtype, jnp.inexact):
                return result
            return result + mark.astype(result.dtype).reshape(-1, *[1] * (result.ndim - 1))

        return jax.tree.map(add, results)

    return marked


def _compiler(network: Frozen, call: Callable, *, save_memory: bool) -> Callable:
    """Returns a function that compiles a computation on a CPU for one shape and dtype of images.

    The compiled program takes images. If oneDNN computes the convolutions, the programs for the
    first four shapes contain the parameters as constants. XLA then converts the kernels to oneDNN's
    layout once, not in every call, which takes up to a third of the time of a single image. Each
    copy takes memory. Therefore further programs, and all with `save_memory`, share the parameters
    as arguments.

    Args:
        network: see `jit_frozen`.
        call: see `jit_frozen`.
        save_memory: see `jit_frozen`.
    """
    options = network.options | (_LITTLE_MEMORY if save_memory else {})
    jit = functools.partial(jax.jit, compiler_options=options or None)
    merged = _with_nans(_merged(network, call))
    copies = _MOST_COPIES if network.onednn and not save_memory else 0

    @functools.cache
    def compiled(shape: tuple[int, ...], dtype: np.dtype) -> Callable:
        nonlocal copies
        images = jax.ShapeDtypeStruct(shape, dtype)
        if copies:
            program = jit(functools.partial(merged, network.params)).lower(images).compile()
            copies -= 1
            return program
        return functools.partial(
            jit(merged).lower(network.params, images).compile(), network.params
        )

    return compiled


def _computing_in(model: Model, dtype: DTypeLike) -> Model:
    """Returns a copy of a network that computes in another dtype, with the same parameters."""
    copy = nnx.merge(*nnx.split(model))
    for _, layer in nnx.iter_modules(copy):
        if hasattr(layer, "dtype"):
            setattr(layer, "dtype", dtype)  # noqa: B010 - only some layers have a dtype
    return copy


def _logits(model: Model, images: jax.Array) -> Any:
    return model(images)


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_threads(compiled: Callable, parts: int) -> Callable[[ArrayLike], Any]:
    """Returns a function that computes pieces of a batch in threads of the CPU.

    Args:
        compiled: returns the program for a shape and dtype of images, see `_compiler`.
        parts: number of threads.
    """
    pool = concurrent.futures.ThreadPoolExecutor(parts, thread_name_prefix="predict")

    def predict(images: ArrayLike) -> Any:
        images = np.asarray(images)
        images = images.astype(jax.dtypes.canonicalize_dtype(images.dtype), copy=False)
        each = _piece(len(images), parts) if images.ndim == 4 else 0
        # Compiled in the calling thread: jax's settings, such as the precision, belong to a thread.
        if each == 0 or each == len(images):
            return compiled(images.shape, images.dtype)(images)
        several = [_filled(images[i : i + each], each) for i in range(0, len(images), each)]
        program = compiled(several[0].shape, images.dtype)
        outputs = pool.map(lambda part: jax.tree.map(np.asarray, program(part)), several)
        return jax.tree.map(
            lambda *arrays: jnp.asarray(np.concatenate(arrays)[: len(images)]), *outputs
        )

    return predict


def _piece(count: int, threads: int) -> int:
    """Returns the number of images that a thread computes at once.

    The number is small, because the feature maps of many images take memory and do not fit into the
    cache. It is chosen so that few padding images are needed. `count` is the number of all images,
    `threads` the number of threads that share them.
    """
    rounds = -(-count // (threads * _MOST_AT_ONCE))
    pieces = [-(-count // (threads * (rounds + more))) for more in range(3)]
    return min(pieces, key=lambda each: -(-count // (threads * each)) * each) if count else 0


def _on(devices: list, compute: Callable, state: dict) -> Callable[[ArrayLike], Any]:
    # Automatic axes: with explicit ones, jax cannot slice off the images that pad the batch.
    mesh = jax.make_mesh((len(devices),), ("batch",), (AxisType.Auto,), devices=devices)
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    spread = NamedSharding(mesh, PartitionSpec("batch"))

    def predict(images: ArrayLike) -> Any:
        images = np.asarray(images)
        if images.ndim != 4:
            return compute(state, images)
        each = -(-len(images) // len(devices))
        filled = jax.device_put(_filled(images, each * len(devices)), spread)
        return jax.tree.map(lambda array: array[: len(images)], compute(state, filled))

    return predict


def _filled(images: np.ndarray, count: int) -> np.ndarray:
    """Pads a batch with zeros to `count` images, so that all parts share one compiled program."""
    missing = count - len(images)
    return np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)]) if missing else images

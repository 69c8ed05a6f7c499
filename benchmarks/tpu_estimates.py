"""What the TPU compiler makes of our networks, of plain ones and of Keras': docs/performance.md.

    python benchmarks/tpu_estimates.py [--archs ARCH ...] [--modules ARCH.STAGE ...] [--full]

Needs the extra `tpu` and no TPU, and `pip install keras` for Keras' rows. Every row is a program
that the TPUs' own compiler has compiled for chips that are not there; what has been compiled before
is kept in the cache. At quick effort a network takes a minute or more, a module some seconds.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from page import command, write_section

import inception_jax as ij
from inception_jax.model import Model
from inception_jax.rematerialise import rematerialised
from train import hardware, topology
from train.compiler import Effort, compile_program
from train.topology import Topology

PAGE = ROOT / "docs" / "performance.md"
OPERATIONS = ROOT / "docs" / "performance"
KERAS = {
    "inception_v3": "InceptionV3",
    "inception_resnet_v2": "InceptionResNetV2",
    "xception": "Xception",
}
MODULES = (
    "inception_v3.Mixed_5d",
    "inception_v3.Mixed_6a",
    "inception_v3.Mixed_6e",
    "inception_v3.Mixed_7a",
    "inception_v3.Mixed_7c",
    "inception_v4.Mixed_5b",
    "inception_v4.Mixed_6b",
    "inception_resnet_v2.block35.0",
    "inception_resnet_v2.block17.0",
    "inception_resnet_v2.block8.0",
    "xception.block3",
    "xception.block5",
    "inception_next_tiny.stages.2.blocks.0",
)

ELEMENTWISE = {"loop", "reduce", "copy", "slice", "concatenate", "select-and-scatter", "convert"}
HBM = 738e9  # bytes a second of a streaming sum on v5e, by the compiler's own account

Tree = Any
Program = tuple[Callable[..., Any], Tree, Tree]  # a function of a state and a batch, both abstract


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile networks and modules for TPUs, in several forms, and compare what they would take."""

    archs: tuple[str, ...] = tuple(KERAS)
    """Networks: forward and training step."""
    modules: tuple[str, ...] = MODULES
    """Modules, alone, in training: ARCH.ATTRIBUTE, ARCH.ATTRIBUTE.NUMBER."""
    topology: str = "v5e:2x2"
    """Chips to compile for, see `train/main.py --compile-only`."""
    images: int = 128
    """On each chip."""
    dtype: str = "bfloat16"
    """What networks compute in."""
    full: bool = False
    """Compile the training steps at full effort too, for the compiler's cycles: ten times as
    long."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What a program would take on a chip."""

    what: str
    form: str
    seconds: float
    bytes: float
    temporaries: int
    cycles: int
    compile_seconds: float
    operations: list[dict[str, Any]]


# --- Programs


def network(arch: str, form: str, mode: str, options: Options) -> Program:
    """A training step or a forward pass of one of our networks."""
    dtype = jnp.dtype(options.dtype)
    build = functools.partial(ij.create_model, arch, dtype=dtype)
    model = nnx.eval_shape(lambda: ij.fold(build()) if form == "folded" else build())
    model = nnx.view(
        model, deterministic=mode != "train", use_running_average=mode != "train",
        raise_if_not_found=False,
    )  # fmt: skip
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def forward(params: Tree, stats: Tree, images: jax.Array) -> tuple[Any, Tree]:
        with form_of(form):
            merged = nnx.merge(graphdef, params, stats)
            key = jax.random.key(0)
            logits = merged(images.astype(dtype) / 127.5 - 1, rngs=nnx.Rngs(dropout=key))
            return logits, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

    if form == "memory saving":
        forward = rematerialised(forward)
    size = ij.model_info(arch).input_size
    return program(forward, params, stats, size, mode, options)


def keras_network(arch: str, mode: str, options: Options) -> Program:
    """The same of Keras' network of that name, on its JAX backend."""
    import keras

    policy = "mixed_bfloat16" if options.dtype == "bfloat16" else options.dtype
    keras.mixed_precision.set_global_policy(policy)
    build = getattr(keras.applications, KERAS[arch])
    model = build(weights=None, classifier_activation=None)
    params = [v.value for v in model.trainable_variables]
    stats = [v.value for v in model.non_trainable_variables]

    def forward(params: Tree, stats: Tree, images: jax.Array) -> tuple[jax.Array, Tree]:
        images = images.astype(jnp.dtype(options.dtype)) / 127.5 - 1
        return model.stateless_call(params, stats, images, training=mode == "train")

    return program(forward, params, stats, ij.model_info(arch).input_size, mode, options)


def program(
    forward: Callable[..., Any], params: Tree, stats: Tree, size: int, mode: str, options: Options
) -> Program:
    """What is compiled of a network: its logits, or a step of RMSProp by cross entropy."""
    tx = optax.rmsprop(0.045, decay=0.9, eps=1.0, momentum=0.9)
    batch = (
        jax.ShapeDtypeStruct((options.images, size, size, 3), jnp.uint8),
        jax.ShapeDtypeStruct((options.images,), jnp.int32),
    )

    def step(state: Tree, images: jax.Array, labels: jax.Array) -> tuple[Tree, jax.Array]:
        params, stats, slots = state

        def loss(params: Tree) -> tuple[jax.Array, Tree]:
            logits, new = forward(params, stats, images)
            each = optax.softmax_cross_entropy_with_integer_labels(
                logits.astype(jnp.float32), labels
            )
            return each.mean(), new

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, slots = tx.update(grads, slots, params)
        return (optax.apply_updates(params, updates), stats, slots), value

    def infer(state: Tree, images: jax.Array, labels: jax.Array) -> tuple[Tree, jax.Array]:
        del labels
        return (), forward(*state, images)[0]

    if mode == "train":
        return step, (params, stats, jax.eval_shape(tx.init, params)), batch
    return infer, (params, stats), batch


def module(name: str, form: str, options: Options) -> Program:
    """Output and gradients of a module in training, whose output is its own cotangent."""
    arch, _, path = name.partition(".")
    dtype = jnp.dtype(options.dtype)
    model = nnx.eval_shape(lambda: ij.create_model(arch, dtype=dtype))
    shape = input_of(model, path, ij.model_info(arch).input_size)
    part = at(model, path)
    part = nnx.view(part, deterministic=True, use_running_average=False, raise_if_not_found=False)
    graphdef, params, stats = nnx.split(part, nnx.Param, nnx.BatchStat)

    def forward(params: Tree, stats: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        with form_of(form):
            merged = nnx.merge(graphdef, params, stats)
            return merged(x), nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

    if form == "memory saving":
        forward = rematerialised(forward)

    def step(state: Tree, x: jax.Array) -> tuple[Tree, Tree]:
        params, stats = state
        y, pull, stats = jax.vjp(lambda p, x: forward(p, stats, x), params, x, has_aux=True)
        grads, dx = pull(y)
        return (grads, stats), dx

    state = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    return step, state, (jax.ShapeDtypeStruct((options.images, *shape[1:]), dtype),)


def at(model: Any, path: str) -> Any:
    """Returns the module at a path."""
    for name in path.split("."):
        model = model[int(name)] if name.isdigit() else getattr(model, name)
    return model


def input_of(model: Model, path: str, size: int) -> tuple[int, ...]:
    """Returns the shape of what reaches the module at a path, of one image."""
    graphdef, state = nnx.split(model)
    kind = type(at(model, path))
    original = kind.__call__
    shapes: list[tuple[int, ...]] = []

    def features(state: Tree, images: jax.Array) -> Any:
        merged = nnx.merge(graphdef, state)
        part = at(merged, path)

        def noting(self: Any, x: jax.Array, *more: Any) -> jax.Array:
            if self is part:
                shapes.append(x.shape)
            return original(self, x, *more)

        kind.__call__ = noting
        with ij.rewritten():  # every layer itself is called
            return merged.features(images)

    try:
        jax.eval_shape(features, state, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    finally:
        kind.__call__ = original
    return shapes[0]


@contextlib.contextmanager
def form_of(form: str) -> Iterator[None]:
    """Plain, or with all rewritings."""
    with ij.rewritten(*(() if form == "plain" else ij.REWRITES)):
        yield


# --- Compiling


def compiled(what: str, form: str, made: Program, options: Options, effort: Effort) -> Row:
    """Compiles a program for the topology; its state on every device, the batch spread over all."""
    target = described(options.topology)
    function, state, batch = made
    mesh = Mesh(np.array(target.devices), ("data",))
    whole, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

    def on(sharding: NamedSharding, times: int) -> Callable[[Any], jax.ShapeDtypeStruct]:
        return lambda a: jax.ShapeDtypeStruct(
            (a.shape[0] * times, *a.shape[1:]) if times > 1 else a.shape, a.dtype, sharding=sharding
        )

    state = jax.tree.map(on(whole, 1), state)
    batch = jax.tree.map(on(spread, len(target.devices)), batch)
    jitted = jax.jit(function, donate_argnums=0, out_shardings=(whole, None))
    found = compile_program(jitted.lower(state, *batch), target, effort, f"{what}, {form}")
    raw = found["optimal_seconds"]
    # The compiler takes a second off for each operation that its model does not know.
    seconds = raw + min(found["custom_calls"], int(np.floor(1 - raw)))
    return Row(
        what,
        form,
        seconds,
        found["bytes_accessed"],
        found["temporary_bytes"],
        found["cycles"],
        found["compile_seconds"],
        found["operations"],
    )


@functools.cache
def described(name: str) -> Topology:
    """The topology of that name."""
    return topology.describe(name)


# --- Tables


def ratio(base: float, value: float) -> str:
    """How many times less than the base."""
    return f"{base / value:.2f}" if value else "-"


def table(rows: list[Row], cycles: bool = False) -> str:
    """One line a program; ratios are to the plain form of the same, above 1 where it is worse."""
    plain = {row.what: row for row in rows if row.form == "plain"}
    head = "| program | form | roofline, ms | plain / this | GB | plain / this | temporaries, GB "
    head += "| plain / this | compiled in, s |"
    if cycles:
        head = "| program | form | M cycles | plain / this | in convolutions | in other operations "
        head += (
            "| large operations without an estimate | convolutions by cycles, the rest by bytes,"
        )
        head += " ms | plain / this |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for row in rows:
        base = plain[row.what]
        cells = [f"{row.seconds * 1e3:.2f}", ratio(base.seconds, row.seconds),
                 f"{row.bytes / 1e9:.2f}", ratio(base.bytes, row.bytes),
                 f"{row.temporaries / 1e9:.3f}", ratio(base.temporaries, row.temporaries),
                 f"{row.compile_seconds:.0f}"]  # fmt: skip
        if cycles:
            kinds = Counter()
            for operation in row.operations:
                kinds[operation["kind"] == "convolution"] += operation["cycles"] or 0
            missing = sum(o["cycles"] is None and o["bytes"] > 1e6 for o in row.operations)
            cells = [f"{row.cycles / 1e6:.2f}", ratio(base.cycles, row.cycles),
                     f"{kinds[True] / 1e6:.2f}", f"{kinds[False] / 1e6:.2f}", str(missing),
                     f"{hybrid(row) * 1e3:.2f}", ratio(hybrid(base), hybrid(row))]  # fmt: skip
        lines.append(f"| {row.what} | {row.form} | {' | '.join(cells)} |")
    return "\n".join(lines)


def hybrid(row: Row) -> float:
    """Seconds on v5e: convolutions by the compiler's cycles, all else at the memory's speed.

    The compiler takes loops of elementwise operations for 2.5 to 4 times slower than memory is.
    """
    convolutions = sum(o["cycles"] or 0 for o in row.operations if o["kind"] == "convolution")
    rest = sum(o["bytes"] for o in row.operations if o["kind"] in ELEMENTWISE)
    return convolutions / (hardware.clock("TPU v5 lite") or 1) + rest / HBM


def keep_operations(row: Row, name: str) -> None:
    """Writes every operation of a program, the most cycles first, to docs/performance/."""
    OPERATIONS.mkdir(parents=True, exist_ok=True)
    ordered = sorted(row.operations, key=lambda o: (-(o["cycles"] or 0), -o["bytes"]))
    with (OPERATIONS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "kind", "cycles", "bytes", "source"])
        writer.writeheader()
        writer.writerows(o for o in ordered if o["cycles"] or o["bytes"] > 1e5)


def forms(arch: str, mode: str) -> list[str]:
    """In the order of the table."""
    ours = ["plain", "rewritten", *(["memory saving"] if mode == "train" else ["folded"])]
    return [*ours, *(["Keras 3"] if arch in KERAS and has_keras() else [])]


def has_keras() -> bool:
    """Whether Keras can be measured."""
    return importlib.util.find_spec("keras") is not None


def made(arch: str, form: str, mode: str, options: Options) -> Program:
    """The program of a row."""
    if form == "Keras 3":
        return keras_network(arch, mode, options)
    return network(arch, form, mode, options)


def main() -> None:
    """Compiles, prints and writes the tables."""
    options = tyro.cli(Options, description=__doc__)
    head = (
        f"`{command()}`: {options.images} images a chip, {options.dtype}, {options.topology}; "
        f"{described(options.topology).compiler}."
    )
    modules = [
        compiled(name, form, module(name, form, options), options, "quick")
        for name in tqdm(options.modules, desc="modules")
        for form in ("plain", "rewritten", "memory saving")
    ]
    if modules:
        show("modules", "Modules in training", head, table(modules))
    for mode, title in (("infer", "Networks, forward"), ("train", "Networks, a training step")):
        rows = [
            compiled(f"{arch} {mode}", form, made(arch, form, mode, options), options, "quick")
            for arch in tqdm(options.archs, desc=mode)
            for form in forms(arch, mode)
        ]
        show(mode, title, head, table(rows))
    if options.full:
        at_full_effort(options, head)


def at_full_effort(options: Options, head: str) -> None:
    """The tables with the compiler's cycles."""
    rows = [
        compiled(name, form, module(name, form, options), options, "full")
        for name in tqdm(options.modules, desc="modules, full effort")
        for form in ("plain", "rewritten")
    ]
    for arch in tqdm(options.archs, desc="networks, full effort"):
        for form in ("plain", "rewritten"):
            what = f"{arch} train"
            rows.append(compiled(what, form, made(arch, form, "train", options), options, "full"))
            keep_operations(rows[-1], f"{arch}_{form}")
    show("cycles", "At full effort", head, table(rows, cycles=True))


def show(name: str, title: str, head: str, text: str) -> None:
    """Prints a section of the page and writes it."""
    print(f"\n{title}. {head}\n\n{text}", flush=True)
    write_section(PAGE, f"tpu {name}", f"### {title}\n\n{head}\n\n{text}")


if __name__ == "__main__":
    main()

"""The equivalence ladder: compares every network with its PyTorch twin, level by level.

The levels are single blocks, stages, logits, auxiliary logits, gradients and running statistics.
The first level that fails shows where the mistake is.
"""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import inception_jax as ij
from inception_jax.create import abstract_model
from tests.helpers.networks import (
    CLASSES,
    WIDTH,
    WRONG_READINGS,
    calibrate,
    compare,
    deep_ones_slow,
    distinct_readings,
    fill,
    named_leaves,
    network,
    options_for,
    random_images,
    run,
    to_numpy,
)

torch = pytest.importorskip("torch")
from reference_torch.layers import Chain
from tests.helpers.twins import pair, to_nchw, twin_of

ARCHS = deep_ones_slow(ij.list_models())


def size_of(name: str, kind: str) -> tuple[int, int]:
    """Returns a height and width of the kind "minimum", "odd", "even" or "non-square".

    Odd, even and non-square sizes are all needed to tell the padding rules apart.
    """
    smallest = ij.model_info(name).min_size
    odd, even = (smallest + 24) | 1, smallest // 2 * 2 + 24
    return {
        "minimum": (smallest, smallest),
        "odd": (odd, odd),
        "even": (even, even),
        "non-square": (odd, even + 6),
    }[kind]


@pytest.mark.slow  # names the wrong block; the tests of stages and gradients also fail
@pytest.mark.parametrize("dtype", ["float32", "float64"], indirect=True)
@pytest.mark.parametrize("name", ARCHS)
def test_blocks_alone(name, dtype):
    """In training mode, a block's output, gradients and updated statistics equal the twin's.

    The first and the last block of each class are tested. Each gets the input of the twin's block,
    so errors do not add up. `test_stages_and_logits` covers evaluation mode.
    """
    model, twin = pair(name, dtype, **options_for(name))
    blocks = _blocks(twin)
    # In float32, rounding can flip a ReLU or a maximum, which changes a gradient by far more than
    # rounding does. This depends on the images; a mistake shows with all images.
    for seed in range(3 if dtype == "float32" else 1):
        size = (
            model.min_size + 32
        )  # BatchNorm over few values amplifies rounding; hence 16 images too
        images = random_images(model, dtype, (size, size), n=16, seed=seed)
        inputs = _block_inputs(twin, blocks, images)
        failed = {}
        for key in blocks:
            block = _submodule(model, key)
            try:
                _check_block(block, blocks[key], inputs[key], dtype, f"{name}.{key}")
            except AssertionError as error:
                failed[key] = error
        blocks = {key: blocks[key] for key in failed}
        if not blocks:
            return
    raise AssertionError("\n".join(map(str, failed.values())))


def _blocks(twin: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Returns the first and the last top-level block of each class, by name."""
    kinds = {}
    for key, child in twin.named_children():
        inner = child.named_children() if isinstance(child, Chain) else [("", child)]
        for number, block in inner:
            name = f"{key}.{number}".removesuffix(".")
            kinds.setdefault(type(block), {})[name] = block
    kinds.pop(torch.nn.Dropout, None)
    ends = [list(blocks.items()) for blocks in kinds.values()]
    return dict(item for blocks in ends for item in (blocks[0], blocks[-1]))


def _submodule(model: nnx.Module, key: str) -> nnx.Module:
    for name in key.split("."):
        model = model[int(name)] if name.isdigit() else getattr(model, name)
    return model


def _block_inputs(
    twin: torch.nn.Module, blocks: dict[str, torch.nn.Module], images: np.ndarray
) -> dict[str, torch.Tensor]:
    """Returns the inputs of the given blocks and auxiliary heads of the twin, by name.

    The twin runs in training mode, but its BatchNorms do not, so their statistics stay unchanged.
    """
    seen = {}
    hooks = [
        block.register_forward_hook(lambda _, x, y, key=key: seen.update({key: x[0]}))
        for key, block in blocks.items()
    ]
    for module in twin.modules():
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    twin(to_nchw(images))
    twin.eval()
    for hook in hooks:
        hook.remove()
    return seen


def _check_block(block, twin, x, dtype, what):
    twin = copy.deepcopy(twin).train()
    x = x.detach().requires_grad_()
    expected = twin(x)
    pull = np.random.default_rng(0).normal(size=to_numpy(expected).shape).astype(dtype)
    (expected * (to_nchw(pull) if pull.ndim == 4 else torch.from_numpy(pull))).sum().backward()

    block.train()
    graphdef, params, stats = nnx.split(block, nnx.Param, nnx.BatchStat)
    block.eval()

    @jax.jit
    def step(params, stats, x):
        def loss(params, x):
            merged = nnx.merge(graphdef, params, stats)
            out = merged(x)
            return (out * pull).sum(), (out, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat)))

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    arguments = (nnx.to_pure_dict(params), nnx.to_pure_dict(stats), to_numpy(x))
    (grads, x_grad), (out, new_stats) = step(*arguments)
    compare(out, expected, dtype, f"{what} in training")
    compare(x_grad, x.grad, dtype, f"{what} gradient of the input")
    _compare_parameters(grads, new_stats, twin, dtype, what)


# The gradient of a bias before a BatchNorm is zero except for rounding. A gradient that is
# smaller than this share of the largest gradient is compared on the scale of the largest.
ZERO = {"float32": 1e-4, "float64": 1e-12}


def _compare_parameters(grads, new_stats, twin, dtype, what):
    ours = named_leaves(grads)
    theirs = {key: parameter.grad.numpy() for key, parameter in twin.named_parameters()}
    assert set(ours) == set(theirs)
    largest = max((np.abs(grad).max() for grad in theirs.values()), default=0.0)
    for key, grad in theirs.items():
        zero = np.abs(grad).max() < ZERO[dtype] * largest
        scale = largest if zero else None
        compare(ours[key], grad, dtype, f"{what} gradient of {key}", scale)
    ours = named_leaves(new_stats)
    for key, buffer in twin.named_buffers():
        if not key.endswith("num_batches_tracked"):
            compare(ours[key], buffer.numpy(), dtype, f"{what} {key} after a step")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("minimum", "float32"),
        # Without `-m slow`, test_readings and the reference numbers cover these cases.
        pytest.param("odd", "float32", marks=pytest.mark.slow),
        pytest.param("minimum", "float64", marks=pytest.mark.slow),
        pytest.param("odd", "float64", marks=pytest.mark.slow),
        pytest.param("even", "float64", marks=pytest.mark.slow),
        pytest.param("non-square", "float64", marks=pytest.mark.slow),  # an odd and an even side
    ],
)
@pytest.mark.parametrize("name", ARCHS)
def test_stages_and_logits(name, kind, dtype):
    with jax.enable_x64(dtype == "float64"):
        _compare_stages(name, kind, dtype)


def _compare_stages(name, kind, dtype):
    model, twin = pair(name, dtype, **options_for(name))
    images = random_images(model, dtype, size_of(name, kind))
    forward = lambda m, x: (m.features(x), m.embed(x), m(x))  # noqa: E731
    (maps, vector, logits), _ = run(model, forward, images)
    expected = twin.features(to_nchw(images))
    assert list(maps) == list(expected)
    for stage in maps:
        compare(maps[stage], expected[stage], dtype, f"{name}.{stage}")
    compare(vector, twin.embed(to_nchw(images)), dtype, f"{name}.embed")
    compare(logits, twin(to_nchw(images)), dtype, f"{name} logits")
    assert logits.shape == (2, CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHS)
def test_full_size(name):
    """Logits equal the twin's at the published width, image size and number of classes."""
    with jax.enable_x64(True):
        model, twin = pair(name, "float64", width_multiplier=1.0, num_classes=None)
        size = ij.model_info(name).input_size
        images = random_images(model, "float64", (size, size), n=1)
        logits, _ = run(model, lambda m, x: m(x), images)
        compare(logits, twin(to_nchw(images)), "float64", name)


@pytest.mark.parametrize(
    "name",
    [
        name if "." in name else pytest.param(name, marks=pytest.mark.slow)
        for name in distinct_readings()
    ],
)
def test_readings(name):
    """Logits equal the twin's for every distinct set of options of architectures and tags.

    Some running variances are 1e-14, so that epsilon matters.
    """
    with jax.enable_x64(True):
        options = options_for(name)
        if ij.model_info(name).num_classes != 1000:
            options["num_classes"] = None
        model, twin = pair(name, "float64", hostile=True, **options)
        images = random_images(model, "float64", size_of(name, "even"))
        logits, _ = run(model, lambda m, x: m(x), images)
        compare(logits, twin(to_nchw(images)), "float64", name)


@pytest.mark.slow  # names the wrong gradient; the test of reference numbers also fails
@pytest.mark.parametrize("rewrites", [ij.DEFAULT_REWRITES, ij.REWRITES], ids=["default", "all"])
@pytest.mark.parametrize("name", ARCHS)
def test_training_step(name, rewrites, own_gradients_everywhere):
    """A training step's logits, gradients and updated statistics all equal the twin's."""
    with jax.enable_x64(True), ij.rewritten(*rewrites):
        model, twin, images, pulls = _training(name, "float64")
        graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)

        @jax.jit
        def step(params, stats):
            def loss(params):
                out, new_stats = _forward(nnx.merge(graphdef, params, stats), images)
                return sum((out[head] * pulls[head]).sum() for head in out), (out, new_stats)

            return jax.grad(loss, has_aux=True)(params)

        grads, (outputs, stats) = step(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))
        expected = _outputs(twin(to_nchw(images)))
        assert set(outputs) == set(expected) == set(pulls)
        sum((expected[head] * torch.from_numpy(pulls[head])).sum() for head in pulls).backward()
        for head in pulls:
            compare(outputs[head], expected[head], "float64", f"{name} {head} in training")
        _compare_parameters(grads, stats, twin, "float64", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHS)
def test_training_in_float32(name):
    """In training, float32 logits and statistics are about as close to float64 as PyTorch's are.

    The tolerance of 1e-5 does not fit a whole network: normalisation by a small batch's statistics,
    layer after layer, amplifies rounding a hundredfold in both frameworks. `test_blocks_alone`
    checks each block and its gradients within 1e-5. The whole network's float32 gradients are not
    compared: they change by half a percent if rounding flips one ReLU of thirty thousand.
    """
    model, twin, images, _ = _training(name, "float32")
    outputs, stats = run(model, lambda m, x: _forward(m, x)[0], images)
    model.eval()
    ours = [outputs, named_leaves(stats)]
    theirs = [_outputs(twin(to_nchw(images))), _statistics(twin)]
    wide = twin_of(model, name, "float32", **options_for(name)).double().train()
    truth = [_outputs(wide(to_nchw(images).double())), _statistics(wide)]
    for what, a, b, c in zip(("logits", "statistics"), ours, theirs, truth, strict=True):
        error, allowed = _distance(a, c), _distance(b, c)
        assert error <= 5 * allowed + 1e-5, f"{name} {what}: {error:.1e}, PyTorch {allowed:.1e}"


def _training(name, dtype):
    """Returns a network and its twin in training mode, images, and logit weights by head.

    The weighted sum of all logits serves as the loss.
    """
    model, _ = pair(name, dtype, **options_for(name))
    twin = twin_of(model, name, dtype, **options_for(name)).train()
    model = nnx.merge(*nnx.split(model))  # the pair is shared
    model.train()
    images = random_images(model, dtype, size_of(name, "odd"), n=8)
    rng = np.random.default_rng(3)
    heads = ["logits", *ij.model_info(name).aux_heads]
    return model, twin, images, {h: rng.normal(size=(8, CLASSES)).astype(dtype) for h in heads}


def _forward(model, images):
    out = _outputs(model(images, rngs=nnx.Rngs(dropout=0)))
    return out, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def _outputs(out):
    return out if isinstance(out, dict) else {"logits": out}


def _statistics(twin):
    return {key: buffer for key, buffer in twin.named_buffers() if "num_batches" not in key}


def _distance(ours, truth):
    """Returns the L2 distance of all tensors taken together, relative to the norm of `truth`.

    Both arguments are dictionaries with the same keys, of arrays or PyTorch tensors.
    """
    as_array = lambda x: x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)  # noqa: E731
    assert set(ours) == set(truth)
    difference = sum(np.square(as_array(ours[k]) - as_array(truth[k])).sum() for k in truth)
    return float(np.sqrt(difference / sum(np.square(as_array(v)).sum() for v in truth.values())))


@pytest.mark.parametrize(("what", "name", "option"), [(k, *v) for k, v in WRONG_READINGS.items()])
def test_a_wrong_reading_is_noticed(what, name, option):
    """One wrong option in the twin makes the comparison fail."""
    base = {k: v for k, v in options_for(name).items() if k == "blocks"}
    model = network(name, "float32", **base)
    # At this size Xception's second pool gets an even map, where the paddings differ.
    # Inception V3's last module gets a 3x3 map, where the pools differ.
    images = to_nchw(random_images(model, "float32", (147, 147)))
    right, wrong = (
        twin_of(model, name, "float32", **base, **options)(images) for options in ({}, option)
    )
    with pytest.raises(AssertionError, match="relative difference"):
        compare(to_numpy(right), wrong, "float32", what)
    assert float((wrong - right).detach().abs().max() / right.detach().abs().max()) > 1e-3


def test_momentum_is_noticed():
    """The comparison of running statistics fails if the twin's BatchNorm uses 1 - momentum."""
    model, twin = pair("xception", "float32")
    block, x = twin.block1_conv1, torch.randn(2, 3, 71, 71)
    theirs = copy.deepcopy(block).train()
    theirs.bn.momentum = 1 - theirs.bn.momentum
    theirs(x)
    model.block1_conv1.train()
    _, stats = run(model.block1_conv1, lambda block, x: block(x), to_numpy(x))
    model.block1_conv1.eval()
    with pytest.raises(AssertionError, match="relative difference"):
        compare(stats["bn"]["mean"], theirs.bn.running_mean.numpy(), "float32", "mean")


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHS)
def test_bfloat16(name):
    """Bfloat16 logits are about as close to float32 as PyTorch's bfloat16 logits.

    BatchNorm is calibrated to the images. A trained network would stay within 2 %, but a random
    network does not: BatchNorm removes the mean of its signal and keeps the rounding errors. After
    forty layers, rounding errors are a tenth of the logits in both frameworks.
    """
    options = {"width_multiplier": WIDTH, "num_classes": CLASSES, **options_for(name)}
    wide = abstract_model(name, **options)
    fill(wide)
    images = random_images(wide, "float32", size_of(name, "odd"), n=4)
    calibrate(wide, images)
    narrow = abstract_model(name, dtype=jnp.bfloat16, **options)
    ij.load_weights(narrow, ij.to_torch(wide))
    expected, _ = run(wide, lambda m, x: m(x), images)
    logits, _ = run(narrow, lambda m, x: m(x), images)
    assert logits.dtype == jnp.bfloat16
    twin = twin_of(wide, name, "float32", **options_for(name)).bfloat16()
    theirs = twin(to_nchw(images).bfloat16()).float().detach().numpy()
    error, allowed = (
        np.linalg.norm(np.asarray(x, np.float32) - expected) / np.linalg.norm(expected)
        for x in (logits, theirs)
    )
    assert error <= 1.5 * allowed + 0.02, f"{name}: {error:.3f}, PyTorch {allowed:.3f}"

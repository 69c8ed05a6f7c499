"""Tests that the test suite notices faults.

Each fault is put into a copy of the repository. At least one of the fault's tests must fail there.
A row of `FAULTS` has the fault's name, the file, the correct text, the faulty text that replaces
it, and the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Fault(NamedTuple):
    """A fault, and tests of which at least one must fail because of it.

    Attributes:
        name: description of the fault.
        file: path of the changed file in the repository.
        text: the correct text.
        planted: the faulty text that replaces it.
        tests: the tests, as an argument of pytest.
    """

    name: str
    file: str
    text: str
    planted: str
    tests: str


_STAGES = "tests/library/test_equivalence.py::test_stages_and_logits[{}-minimum-float32]"
_MODELS = "inception_jax/models"

FAULTS = [
    Fault(
        "wrong epsilon",
        f"{_MODELS}/inception_v3.py",
        "bn_eps: float = 1e-3,",
        "bn_eps: float = 1e-5,",
        _STAGES.format("inception_v3"),
    ),
    Fault(
        "padding on the wrong side",
        "inception_jax/nn/windows.py",
        "return total // 2, total - total // 2",
        "return total - total // 2, total // 2",
        "tests/library/test_ops.py::test_padding_follows_tensorflow_and_pytorch",
    ),
    Fault(
        "skipped layer",
        f"{_MODELS}/xception.py",
        "        x = self.sepconv3(jax.nn.relu(x))\n",
        "",
        _STAGES.format("xception"),
    ),
    Fault(
        "swapped strides",
        f"{_MODELS}/xception.py",
        'width(32), 3, stride=2, padding="valid")\n'
        "        self.block1_conv2 = conv(width(32), width(64), 3, ",
        'width(32), 3, padding="valid")\n'
        "        self.block1_conv2 = conv(width(32), width(64), 3, stride=2, ",
        _STAGES.format("xception"),
    ),
    Fault(
        "residual scales in another order",
        f"{_MODELS}/inception_resnet_v1.py",
        "(0.17, 0.10, 0.20)",
        "(0.17, 0.20, 0.10)",
        _STAGES.format("inception_resnet_v1"),
    ),
    Fault(
        "border of average pools",
        "inception_jax/nn/ops.py",
        "    if count_include_pad:",
        "    if not count_include_pad:",
        "tests/library/test_ops.py::test_average_at_the_border",
    ),
    Fault(
        "biased running variance",
        "inception_jax/nn/norms.py",
        "var * (n / (n - 1))",
        "var",
        "tests/library/test_layers.py::test_running_variance_is_the_unbiased_one",
    ),
    Fault(
        "kernels transposed in conversion",
        "inception_jax/weights/torch_names.py",
        "return _permuted(array, (3, 2, 0, 1))",
        "return _permuted(array, (3, 2, 1, 0))",
        "tests/library/test_layouts.py",
    ),
    Fault(
        "background row kept",
        "inception_jax/weights/layouts.py",
        "        if not self.background:",
        "        if self.background:",
        "tests/library/test_layouts.py::test_the_background_is_left_out",
    ),
    Fault(
        "checksum of a download not compared",
        "inception_jax/weights/download.py",
        "    if not found.startswith(expected):",
        "    if False:",
        "tests/library/test_download.py",
    ),
    Fault(
        "mean and deviation swapped",
        "inception_jax/crops.py",
        "for x in (info.mean, info.std))",
        "for x in (info.std, info.mean))",
        "tests/library/test_preprocess.py::test_every_tag_gives_its_own_input",
    ),
    Fault(
        "a link to the parent folder is followed",
        "inception_jax/folders.py",
        "or _holds(target, self._real_root)",
        "",
        "tests/library/test_folders.py::test_loops_and_links_inside_are_not_followed",
    ),
    Fault(
        "metrics scale deep pixels, which pytorch-fid clips",
        "inception_jax/metrics/image_loader.py",
        "as_pillow=True",
        "as_pillow=False",
        "tests/train/test_every_door.py::test_metrics_read_as_pillow_and_say_what_is_lost",
    ),
    Fault(
        "the other resize of FID",
        "inception_jax/metrics/resizing.py",
        'half_pixel = resize == "bilinear_torch"',
        'half_pixel = resize != "bilinear_torch"',
        "tests/library/test_metrics.py::test_bilinear_torch_is_torchs",
    ),
    Fault(
        "sFID takes other channels",
        "inception_jax/metrics/extractor.py",
        "[..., :_SPATIAL_CHANNELS]",
        "[..., -_SPATIAL_CHANNELS:]",
        "tests/library/test_presets.py::test_spatial_features_are_the_first_channels_of_a_branch_row_by_row",
    ),
    Fault(
        "clean-fid's draws begin with the generated images",
        "inception_jax/metrics/draws.py",
        "        second = draw(real)\n        yield draw(generated), second\n",
        "        yield draw(generated), draw(real)\n",
        "tests/library/test_presets.py::test_kid_draws_as_each_program",
    ),
    Fault(
        "statistics of different origins are compared",
        "inception_jax/metrics/origin.py",
        "b is None or a == b:",
        "b is None or a != b:",
        "tests/library/test_statistics_files.py::test_statistics_of_different_origins_are_refused",
    ),
    Fault(
        "folding forgets the residual scale",
        f"{_MODELS}/inception_resnet_v1.py",
        "        self.up.scale_output(self.scale)\n",
        "",
        "tests/library/test_folding.py::test_folding_keeps_the_logits",
    ),
    Fault(
        "resume off by one",
        "train/data/pipeline.py",
        "range(start_step * share, max",
        "range((start_step + 1) * share, max",
        "tests/train/test_pipeline.py::test_worker_processes_and_starting_later_change_nothing",
    ),
    Fault(
        "epochs in one order",
        "train/data/pipeline.py",
        "np.random.default_rng((seed, epoch)).perm",
        "np.random.default_rng((seed, 0)).perm",
        "tests/train/test_pipeline.py::test_an_epoch_shows_every_image_once_in_its_own_order",
    ),
    Fault(
        "no image mirrored",
        "train/data/augment.py",
        "if flip and rng.integers(2):",
        "if flip and rng.integers(1):",
        "tests/train/test_augment.py::test_every_second_image_is_mirrored",
    ),
    Fault(
        "mask of the evaluation dropped",
        "train/engine/step.py",
        "jnp.where(mask > 0, value, 0).sum()",
        "value.sum()",
        "tests/train/test_train_step.py::test_evaluation_counts_masked_images_not_at_all",
    ),
    Fault(
        "warm-up of the averages",
        "train/engine/step.py",
        "(1.0 + state.step) / (10.0",
        "(2.0 + state.step) / (10.0",
        "tests/train/test_train_step.py::test_averages_follow_tensorflows_warm_up",
    ),
    Fault(
        "labels not smoothed",
        "train/engine/step.py",
        "num_classes), options.label_smoothing)",
        "num_classes), 0.0)",
        "tests/train/test_train_step.py::test_loss_is_smoothed_and_weighs_the_auxiliary_head",
    ),
    Fault(
        "the backbone is trained with the classifier that is to be trained alone",
        "train/engine/phases.py",
        "        return any(names[: len(own)] == own for own in paths)",
        "        return True",
        "tests/train/test_small_data.py::test_the_classifier_alone_leaves_the_backbone_bit_equal",
    ),
    Fault(
        "gradients of parts summed",
        "train/engine/step.py",
        "jax.tree.map(lambda x: x / parts, totals)",
        "totals",
        "tests/train/test_train_step.py::test_a_batch_in_parts_is_the_batch_in_groups",
    ),
    Fault(
        "biases decayed",
        "train/engine/optimizer.py",
        'return _named(params, "kernel")',
        "return jax.tree.map(lambda _: True, params)",
        "tests/train/test_train_parts.py::test_adamw_is_pytorchs",
    ),
    Fault(
        "rate off by one step",
        "train/engine/schedule.py",
        "    def rate(step: Any) -> Any:\n",
        "    def rate(step: Any) -> Any:\n        step = step + 1\n",
        "tests/train/test_train_parts.py::test_sgd_is_caffes",
    ),
    Fault(
        "hue ignored",
        "train/engine/augmentation.py",
        "        return rotate_hue(x, turn)\n",
        "        return x\n",
        "tests/train/test_inputs.py::test_distortion_is_within_tf_slims_limits",
    ),
    Fault(
        "checksums of checkpoints not compared",
        "train/engine/checkpoint.py",
        "wrong = [name for name in found if found[name] != stored.get(name)]",
        "wrong = []",
        "tests/train/test_checkpoints.py",
    ),
    Fault(
        "a workdir of another configuration accepted",
        "train/workdir/claim.py",
        "    if changed := _changed_options(workdir, config, own, copies):",
        "    if False:",
        "tests/train/test_train_parts.py::test_workdir_of_another_configuration",
    ),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Returns the path of a copy of the repository."""
    copy = tmp_path_factory.mktemp("planted") / "tree"
    ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".hypothesis", "runs")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_suite_notices(tree, fault):
    file = tree / fault.file
    text = file.read_text()
    assert text.count(fault.text) == 1, "the table is out of date"
    file.write_text(text.replace(fault.text, fault.planted))
    try:
        options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, fault.tests],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
        )
    finally:
        file.write_text(text)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]  # tests failed

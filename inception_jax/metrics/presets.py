"""Presets: the programs that papers use for FID, and what each of them computes.

A preset is plain data. It says which files of a folder are images, how an image is resized and
normalised, which features are used, how random subsets are drawn, and in which precision sums are
computed. All presets use the same network, the Inception V3 of TensorFlow's graph of 2015-12-05.
Every image is converted to 8-bit RGB by Pillow's `convert("RGB")`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from inception_jax.metrics.draws import Draws, Shuffle
from inception_jax.metrics.resizing import Resize


@dataclasses.dataclass(frozen=True)
class Files:
    """Which files of a folder are images, and their order.

    Attributes:
        endings: file name endings, with their dots.
        match_case: whether the case of an ending matters.
        recursive: whether subfolders are read too.
        hidden: whether hidden files are read too.
        order: order of the files. "path" sorts by folder, then by name. "text" sorts by the path as
            text. "real" sorts by the path as text after resolving symbolic links. "listed" sorts by
            ending; files of the same ending keep the order in which the file system lists them.
    """

    endings: tuple[str, ...]
    match_case: bool = True
    recursive: bool = False
    hidden: bool = True
    order: Literal["path", "text", "real", "listed"] = "path"


@dataclasses.dataclass(frozen=True)
class Preset:
    """What one program computes.

    Attributes:
        name: name of the preset.
        program: name of the program.
        version: version of the program that this preset was compared with.
        url: URL of the program's source code.
        files: which files of a folder the program reads.
        resize: how the program resizes and normalises images; see `resizing.resized`.
        metrics: metrics that the program computes, out of "fid", "sfid", "kid", "is" and "pr".
        default_metrics: metrics that `inception-jax fid` computes by default.
        network: name of the network that computes the features.
        dims: numbers of features that the program offers; the last one is its default.
        logits: logits from which the Inception Score is computed. "unbiased": without the
            classifier's bias.
        unit_floats: whether the program accepts float images from 0 to 1, multiplies them by 255
            and truncates.
        whole_batches: batch size of a program that drops an incomplete last batch; 0: no images are
            dropped.
        mean_dtype: dtype in which the mean of the features is summed. Covariances are always
            computed in float64.
        offset: number added to the diagonals of both covariances under the root of the Fréchet
            distance.
        kid_subsets: number of subsets that KID draws.
        kid_subset_size: number of images in each of KID's subsets.
        kid_draws: how the subsets are drawn; see `draws.subset_pairs`.
        kid_dtype: dtype in which KID's kernel is computed and summed.
        is_splits: number of splits for the Inception Score.
        is_split_size: number of images in each split except the last; overrides `is_splits`.
        is_shuffle: how images are shuffled before they are split; None: they are not shuffled.
        is_ddof: `ddof` of the standard deviation over the splits, as in `np.std`.
        pr_neighbours: k of precision and recall; see `manifolds.manifold_precision_recall`.
        pr_dtype: dtype in which the distances of precision and recall are computed.
        seed: seed of draws and shuffles. A program that draws without a seed computes the same
            numbers if its generator is seeded with this value just before it draws.
    """

    name: str
    program: str
    version: str
    url: str
    files: Files
    resize: Resize
    metrics: tuple[str, ...] = ("fid",)
    default_metrics: tuple[str, ...] = ("fid",)
    network: str = "inception_v3.fid"
    dims: tuple[int, ...] = (64, 192, 768, 2048)
    logits: Literal["unbiased"] = "unbiased"
    unit_floats: bool = False
    whole_batches: int = 0
    mean_dtype: Literal["float64", "float32"] = "float64"
    offset: float = 0.0
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    kid_draws: Draws = "torch_fidelity"
    kid_dtype: Literal["float64", "float32"] = "float64"
    is_splits: int = 10
    is_split_size: int | None = None
    is_shuffle: Shuffle | None = None
    is_ddof: int = 0
    pr_neighbours: int = 3
    pr_dtype: Literal["float64", "float16"] = "float64"
    seed: int = 2020


_NINE = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_ALL = (
    Preset(
        "pytorch_fid",
        program="pytorch-fid",
        version="0.3.0",
        url="https://github.com/mseitzer/pytorch-fid",
        files=Files(_NINE),
        resize="bilinear_torch",
    ),
    Preset(
        "tf2015",
        program="TTUR's fid.py",
        version="73ab375",
        url="https://github.com/bioinf-jku/TTUR",
        files=Files((".jpg", ".png"), order="listed"),
        resize="bilinear_tf1",
        dims=(2048,),
        whole_batches=50,
    ),
    Preset(
        "adm",
        program="guided-diffusion's evaluator.py",
        version="22e0df8",
        url="https://github.com/openai/guided-diffusion",
        files=Files(_NINE),  # the program itself reads only .npz files
        resize="bilinear_tf1",
        metrics=("fid", "sfid", "is", "pr"),
        default_metrics=("is", "fid", "sfid", "pr"),
        dims=(2048,),
        mean_dtype="float32",
        is_split_size=5000,
        pr_dtype="float16",
    ),
    Preset(
        "torch_fidelity",
        program="torch-fidelity",
        version="0.4.0",
        url="https://github.com/toshas/torch-fidelity",
        files=Files((".png", ".jpg", ".jpeg"), match_case=False, order="real"),
        resize="bilinear_tf1",
        metrics=("fid", "kid", "is", "pr"),
        mean_dtype="float32",
        kid_dtype="float32",
        is_shuffle="torch_fidelity",
    ),
    Preset(
        "clean",
        program="clean-fid",
        version="0.1.35",
        url="https://github.com/GaParmar/clean-fid",
        files=Files(
            (*_NINE, ".npy", ".JPEG", ".JPG", ".PNG"), recursive=True, hidden=False, order="text"
        ),
        resize="bicubic_pillow",
        metrics=("fid", "kid"),
        dims=(2048,),
        mean_dtype="float32",
        kid_draws="clean",
        kid_dtype="float32",
    ),
    Preset(
        "torchmetrics",
        program="torchmetrics",
        version="1.9.0",
        url="https://github.com/Lightning-AI/torchmetrics",
        files=Files(_NINE),  # the program itself takes only tensors
        resize="bilinear_antialias",
        metrics=("fid", "kid", "is"),
        unit_floats=True,
        kid_draws="torchmetrics",
        is_shuffle="torchmetrics",
        is_ddof=1,
    ),
    Preset(
        "jax_fid",
        program="jax-fid-parallel",
        version="132b95a",
        url="https://github.com/kvfrans/jax-fid-parallel",
        files=Files(_NINE),  # the program itself takes only arrays
        resize="bilinear_torch",
        dims=(2048,),
        mean_dtype="float32",
        offset=1e-6,
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})
"""The presets by name. `pytorch_fid` is the default everywhere."""

DEFAULT = "pytorch_fid"


def preset_of(name: str) -> Preset:
    """Returns the preset with this name.

    Raises:
        ValueError: if there is no such preset; the message lists all names.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {name!r}")
    return PRESETS[name]

"""Compares the FIDs that several programs compute for the same two folders.

    FID_PROGRAMS=FOLDER python benchmarks/which_fid.py [--weights FILE] [--count N] [--no-write]

prints tables and writes them into docs/which_fid.md. It makes two folders of synthetic photos and
measures them with every preset of this library. Each preset computes the same values as another
program. The other program is run too if it is installed (pytorch-fid, torch-fidelity, clean-fid,
torchmetrics) or if FOLDER has a copy of its repository (`guided-diffusion`, `TTUR`,
`jax-fid-parallel`). `--weights` takes pytorch-fid's weight file. Without this option, all programs
get the same random weights.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import reference_torch
from benchmarks import page
from inception_jax import metrics
from inception_jax.metrics import scores
from inception_jax.metrics.metric_values import MeanStd, PrecisionRecall
from inception_jax.metrics.presets import Preset
from tests.helpers import fid_programs as programs
from tests.helpers.photos import photo

Values = dict[str, Any]
COLUMNS = {
    "fid": "FID", "sfid": "sFID", "kid": "KID × 1000", "is": "IS", "precision": "precision",
    "recall": "recall",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Measure two folders with every program."""

    weights: Path | None = None
    """pytorch-fid's weight file; default: random weights."""
    count: int = 100
    """Number of images in each folder."""
    side: int = 512
    """Height and width of the images, in pixels."""
    subset: int = 50
    """Number of images in each of KID's 100 subsets."""
    write: bool = True
    """Write the page; the tables are printed in any case."""


def main(options: Options) -> None:
    """Measures two folders with every program, and prints a section of docs/which_fid.md.

    With `write`, the section is also written into the page.
    """
    warnings.simplefilter("ignore")
    packages = ("torch", "pytorch-fid", "torch-fidelity", "clean-fid", "torchmetrics")
    machine = page.machine("jax", *packages, "tensorflow-cpu", "pillow")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = prepared_weights(options.weights, folder)
        generated, real = write_folders(folder, options)
        rows, beside = [], []
        for preset in metrics.PRESETS.values():
            ours = by_preset(preset.name, weights, generated, real, options)
            theirs = by_program(preset, weights, generated, real, options)
            rows.append([f"`{preset.name}`", *(_text(name, ours.get(name)) for name in COLUMNS)])
            beside.append(_beside(preset, ours, theirs))
            print(rows[-1], beside[-1], flush=True)
    source = f"`{options.weights.name}`" if options.weights else "random weights of one seed"
    page.publish(
        options.docs / "which_fid.md" if options.write else None,
        "numbers",
        f"Two folders of {options.count} images of {options.side} pixels; {source}; KID of 100 "
        f"subsets of {options.subset}. {machine}",
        page.table(["preset", *COLUMNS.values()], rows),
        page.table(["program", "FID it prints", "FID here", "largest difference of all"], beside),
    )


def prepared_weights(file: Path | None, folder: Path) -> Path:
    """Writes one set of weights in the programs' file formats; returns the folder of the files.

    Args:
        file: path of pytorch-fid's weight file; None: random weights.
        folder: parent of the folder of weight files.
    """
    target = folder / "weights"
    if file is None:
        programs.write_weights(target)
        return target
    twin = reference_torch.create_model("inception_v3.fid")
    twin.load_state_dict(torch.load(file, weights_only=True))
    programs.write_layouts(target, twin.eval())
    return target


def write_folders(folder: Path, options: Options) -> tuple[Path, Path]:
    """Writes a folder of "real" photos as PNG, and one of darker "generated" photos as JPEG.

    Returns:
        The folder of the generated photos, and the folder of the real photos.
    """
    for name, seed in (("real", 0), ("generated", 10_000)):
        (folder / name).mkdir()
        for i in range(options.count):
            image = photo(options.side, options.side, seed + i)
            if seed:
                darker = image.point(lambda value: int(value * 0.9))
                darker.save(folder / name / f"{i:05}.jpg", quality=75)
            else:
                image.save(folder / name / f"{i:05}.png")
    return folder / "generated", folder / "real"


def by_preset(preset: str, weights: Path, a: Path, b: Path, options: Options) -> Values:
    """Returns this library's values, by name, of all metrics that a preset's program computes.

    Args:
        preset: name of the preset.
        weights: folder of weight files.
        a: folder of the generated photos.
        b: folder of the real photos.
        options: size of KID's subsets.
    """
    extractor = metrics.Extractor(weights / programs.PYTORCH, preset=preset)
    x, y = (extractor.features(folder) for folder in (a, b))
    found: Values = {"fid": scores.fid_of_statistics(x.statistics, y.statistics)}
    if "sfid" in extractor.preset.metrics:
        found["sfid"] = scores.sfid_of_statistics(x.statistics, y.statistics)
    if "kid" in extractor.preset.metrics:
        found["kid"] = scores.kid_of_features(x, y, subset_size=options.subset)
    if "is" in extractor.preset.metrics:
        found["is"] = scores.score_of_features(x)
    if "pr" in extractor.preset.metrics:
        found |= scores.precision_recall_of_features(x, y)._asdict()
    return found


def by_program(preset: Preset, weights: Path, a: Path, b: Path, options: Options) -> Values | None:
    """Returns the values that a preset's program computes; None if the program is missing.

    Args:
        preset: the preset.
        weights: folder of weight files.
        a: folder of the generated photos.
        b: folder of the real photos.
        options: size of KID's subsets.
    """
    try:
        return _PROGRAMS[preset.name](weights, a, b, options)
    except pytest.skip.Exception:
        return None


def _pytorch_fid(weights: Path, a: Path, b: Path, options: Options) -> Values:
    theirs = programs.package("pytorch_fid.fid_score")
    network = programs.pytorch_fids(weights, 2048)
    found = [
        theirs.compute_statistics_of_path(str(folder), network, 50, 2048, "cpu", 0)
        for folder in (a, b)
    ]
    return {"fid": float(theirs.calculate_frechet_distance(*found[0], *found[1]))}


def _tf2015(weights: Path, a: Path, b: Path, options: Options) -> Values:
    found = [programs.ttur_statistics(weights, folder) for folder in (a, b)]
    return {"fid": float(programs.ttur().calculate_frechet_distance(*found[0], *found[1]))}


def _adm(weights: Path, a: Path, b: Path, options: Options) -> Values:
    evaluator = programs.adm(weights)
    acts = [
        evaluator.compute_activations(np.array_split(programs.as_array(folder), 4))
        for folder in (a, b)
    ]
    stats = [[evaluator.compute_statistics(x) for x in pair] for pair in acts]
    precision, recall = evaluator.compute_prec_recall(acts[1][0], acts[0][0])
    return {
        "fid": float(stats[0][0].frechet_distance(stats[1][0])),
        "sfid": float(stats[0][1].frechet_distance(stats[1][1])),
        "is": MeanStd(evaluator.compute_inception_score(acts[0][0]), 0.0),
        **PrecisionRecall(precision, recall)._asdict(),
    }


def _torch_fidelity(weights: Path, a: Path, b: Path, options: Options) -> Values:
    theirs = programs.package("torch_fidelity")
    found = theirs.calculate_metrics(
        input1=str(a),
        input2=str(b),
        cuda=False,
        fid=True,
        kid=True,
        isc=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights / programs.PYTORCH),
        kid_subset_size=options.subset,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    names = {"kid": "kernel_inception_distance", "is": "inception_score"}
    pairs = {k: MeanStd(found[f"{v}_mean"], found[f"{v}_std"]) for k, v in names.items()}
    return {
        "fid": found["frechet_inception_distance"],
        **pairs,
        **{name: found[name] for name in ("precision", "recall")},
    }


def _clean(weights: Path, a: Path, b: Path, options: Options) -> Values:
    theirs = programs.package("cleanfid.fid")
    network = programs.cleans(weights)
    given = dict(num_workers=0, batch_size=50, device="cpu", verbose=False)
    x, y = (theirs.get_folder_features(str(folder), network, **given) for folder in (a, b))
    np.random.seed(2020)
    kid = theirs.kernel_distance(x, y, max_subset_size=options.subset)
    return {"fid": float(theirs.fid_from_feats(x, y)), "kid": MeanStd(kid, 0.0)}


def _torchmetrics(weights: Path, a: Path, b: Path, options: Options) -> Values:
    with programs.torchmetrics_weights(weights) as theirs:
        fid = theirs.FrechetInceptionDistance()
        kid = theirs.KernelInceptionDistance(subset_size=options.subset)
        score = theirs.InceptionScore()
    for folder, real in ((a, False), (b, True)):
        images = torch.from_numpy(programs.as_array(folder)).permute(0, 3, 1, 2)
        for batch in images.split(25):
            fid.update(batch, real=real)
            kid.update(batch, real=real)
            if not real:
                score.update(batch)
    torch.manual_seed(2020)
    distances = MeanStd(*map(float, kid.compute()))
    torch.manual_seed(2020)
    parts = MeanStd(*map(float, score.compute()))
    return {"fid": float(fid.compute()), "kid": distances, "is": parts}


def _jax_fid(weights: Path, a: Path, b: Path, options: Options) -> Values:
    module, network = programs.jax_fid_parallel(weights)
    stats = []
    for folder in (a, b):
        images = np.array_split(programs.as_array(folder), 4)
        features = np.concatenate([network(part) for part in images])
        stats += [np.mean(features, axis=0), np.cov(features, rowvar=False)]
    return {"fid": float(module.fid_from_stats(*stats))}


_PROGRAMS: dict[str, Callable[[Path, Path, Path, Options], Values]] = {
    "pytorch_fid": _pytorch_fid,
    "tf2015": _tf2015,
    "adm": _adm,
    "torch_fidelity": _torch_fidelity,
    "clean": _clean,
    "torchmetrics": _torchmetrics,
    "jax_fid": _jax_fid,
}


def _number(value: Any) -> float:
    return value.mean if isinstance(value, MeanStd) else float(value)


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{_number(value) * (1000 if name == 'kid' else 1):.4f}"


def _beside(preset: Preset, ours: Values, theirs: Values | None) -> list[str]:
    program = f"{preset.program} {preset.version}"
    if theirs is None:
        return [program, "not installed", f"{ours['fid']:.6f}", ""]
    apart = {
        name: abs(_number(ours[name]) - _number(value)) / max(abs(_number(value)), 1e-9)
        for name, value in theirs.items()
    }
    worst = max(apart, key=lambda name: apart[name])
    largest = f"{apart[worst]:.0e} ({COLUMNS[worst].removesuffix(' × 1000')})"
    return [program, f"{theirs['fid']:.6f}", f"{ours['fid']:.6f}", largest]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main(tyro.cli(Options, description=__doc__))

"""Trains, exports and checks the networks of the page docs/play/, and writes its files.

Run it from a checkout after `pip install -e ".[train,onnx]"`:

    python examples/play/make.py

It writes an ONNX file for each network, a picture of each class, and networks.json into docs/play/.
A finished training run is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
import onnxruntime
from flax import nnx
from PIL import Image

import inception_jax as ij
from inception_jax import explain
from inception_jax.cli import commands
from train.data.open_dataset import open_dataset

# Options of the training command. At the demo's size of 64 pixels, the last map of Inception V1 has
# 2x2 pixels, which is too few for a heat map. The last map of Xception has 3x3.
NETWORKS: dict[str, list[str]] = {"inception_v1": ["--image-size", "112"], "xception": []}

SIDE = 28  # side of the pictures that the networks are trained on
LARGEST = 10_000_000  # largest number of bytes of all files together, because they are in git
TOLERANCE = 1e-4  # relative; allows for float32 rounding in another order of operations


def main() -> None:
    """Trains each network that has no finished run, and writes the files of docs/play/."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "play", metavar="DIR",
                        help="folder of the two runs; default: runs/play")  # fmt: skip
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "play", metavar="DIR",
                        help="folder to write to; default: docs/play")  # fmt: skip
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    labels, pictures = samples()
    networks, logits = [], {}
    with tempfile.TemporaryDirectory() as folder:
        made = [Path(folder, f"{name}.onnx") for name in NETWORKS]
        for path in made:
            facts, logits[path.stem] = network(path, args.runs / path.stem, pictures)
            networks.append(facts)
        size = sum(path.stat().st_size for path in made)
        if size > LARGEST:
            raise SystemExit(f"the networks have {size:,} bytes together; {LARGEST:,} are allowed")
        for path in made:
            (args.to / path.name).write_bytes(path.read_bytes())
    entries = []
    (args.to / "samples").mkdir(exist_ok=True)
    for i, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
        file = f"samples/{label.lower().replace(' ', '_')}.png"
        Image.fromarray(picture).save(args.to / file, optimize=True)
        values = {name: [round(float(x), 6) for x in rows[i]] for name, rows in logits.items()}
        entries.append({"file": file, "label": label, "logits": values})
    (args.to / "networks.json").write_text(
        f'{{"networks": {lines(networks)}, "samples": {lines(entries)}}}\n', encoding="utf-8"
    )
    print(f"wrote {args.to}: {size:,} bytes of networks, {len(entries)} samples")


def samples() -> tuple[list[str], list[np.ndarray]]:
    """Returns Fashion-MNIST's class names, and the first test picture of each class.

    The pictures are NumPy arrays, uint8 [28, 28], in the order of the names.
    """
    data = open_dataset("fashion_mnist")
    first: dict[int, np.ndarray] = {}
    for i in range(len(data.test)):
        pixels, label, _ = data.test[i]
        first.setdefault(int(label), np.asarray(pixels).squeeze())
    return list(data.classes), [first[k] for k in range(len(data.classes))]


def network(path: Path, run: Path, pictures: list[np.ndarray]) -> tuple[dict[str, Any], np.ndarray]:
    """Trains a network, exports it and checks the ONNX file.

    Args:
        path: path of the ONNX file to write. Its name without the suffix is the name of the network
            to train, a key of `NETWORKS`.
        run: folder of the training run.
        pictures: test pictures, arrays uint8 [28, 28].

    Returns:
        The network's entry in networks.json, and the logits that onnxruntime computes for the
        pictures.

    Raises:
        SystemExit: if the training or the export fails, if the page's preprocessing differs from
            the network's, or if the outputs of the ONNX file differ from the network's.
    """
    command = ["train/main.py", "--arch", path.stem, *NETWORKS[path.stem]]
    trained = subprocess.run(
        [sys.executable, *command, "--workdir", str(run)], cwd=ROOT, stdout=subprocess.PIPE
    )
    if trained.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {trained.returncode}")
    result = json.loads(trained.stdout.splitlines()[-1])
    exported = commands.main(["export", str(run), "-o", str(path), "--stages", "all", "--heat"])
    if exported:
        raise SystemExit(f"the export of {run} ended with {exported}")
    model = ij.load(run)
    info = model.info
    if (info.crop, info.interpolation, info.mean, info.std) != (
        "squash", "bilinear_torch", (0.5,), (0.5,),
    ):  # fmt: skip
        raise SystemExit(f"src/pixels.js does not prepare images as {path.stem} needs: {info}")
    images = np.concatenate([ij.preprocess(model, picture) for picture in pictures])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results: Any = session.run(None, {"images": images})
    outputs: dict[str, np.ndarray] = dict(zip(names, results, strict=True))
    stages = [stage.name for stage in ij.feature_info(model)]
    check(model, images, outputs, stages)
    facts = {
        "name": path.stem,
        "file": path.name,
        "command": " ".join(["python", *command]),
        "size": info.input_size,
        "parameters": count(model) - sum(count(getattr(model, aux)) for aux in model.aux_names),
        "top1": result["eval_top1"],
        "classes": list(model.classes or ()),
        "stages": stages,
    }
    return facts, outputs["logits"]


def count(module: Any) -> int:
    """Returns the number of parameters of a module, 0 for None."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(module, nnx.Param))) if module else 0


def lines(entries: list[dict[str, Any]]) -> str:
    """Returns entries as a JSON array, with one entry on each line."""
    return "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]"


def check(
    model: Any, images: np.ndarray, outputs: dict[str, np.ndarray], stages: list[str]
) -> None:
    """Checks the outputs of the ONNX file against the network in JAX, see `equal`.

    Args:
        model: the network in JAX.
        images: preprocessed images, float32 [n, h, w, 1].
        outputs: outputs of the ONNX file by name: feature maps, logits and heat maps.
        stages: names of the feature maps.

    Raises:
        SystemExit: if an output differs by more than `TOLERANCE`, 1e-4 of its largest value.
    """
    maps = ij.feature_extractor(model, stages)(images)
    cam = explain.grad_cam(model)
    for name in stages:
        equal(name, outputs[name], maps[name])
    for k in range(outputs["logits"].shape[1]):
        heat, logits = cam(images, [k] * len(images))
        equal("logits", outputs["logits"], logits)
        resized = jax.image.resize(outputs["heat"][..., k], heat.shape, "bilinear")
        largest = np.maximum(resized.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
        equal("heat", resized / largest, heat)


def equal(what: str, ours: Any, theirs: Any) -> None:
    """Checks that two arrays differ by at most `TOLERANCE`, 1e-4.

    The largest difference is divided by the largest absolute value in `theirs`.

    Args:
        what: name of the output, for the message.
        ours: output of the ONNX file.
        theirs: output of the network in JAX.

    Raises:
        SystemExit: if they differ by more.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not worst <= TOLERANCE:
        raise SystemExit(f"{what}: the ONNX file differs from the network by {worst:.1e}")


if __name__ == "__main__":
    main()

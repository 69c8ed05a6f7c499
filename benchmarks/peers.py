"""Measures how much this library differs from original implementations with the same weights.

    python benchmarks/peers.py [--results FILE] [--only WORD ...]

prints a table and writes it into docs/equivalence.md. It needs the extra `test`, and the packages
with the original implementations:

    pip install torchvision timm pytorch-fid munch tf_slim tf_keras "opencv-python-headless<5"
    pip install --no-deps facenet facenet-pytorch pretrainedmodels
    pip install --no-deps tf-models-research-object-detection

The last package has TF-slim's networks. Only OpenCV before version 5 reads Caffe's files. Caffe
itself must be built from source. To compute in float64, build Caffe with `typedef double Dtype` and
NPY_FLOAT64 in `_caffe.cpp`. A network takes a minute on two cores.

`--only` measures only networks whose tag or runtime contains one of the words.

`--results` stores the rows of the table in a file; rows in the file are not measured again.
Packages that conflict can therefore be measured in two environments, one after the other. The page
is written when every network has a row.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import multiprocessing
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tests.conftest  # compiles in a fraction of the time  # noqa: F401
from benchmarks import page
from inception_jax.outputs import atomic_write
from tests.helpers.peers.runtime import DTYPES, library
from tests.helpers.peers.table import PEERS, Peer, distances, without_runtime

NAMES = {
    "caffe": "Caffe",
    "cv2": "OpenCV",
    "facenet": "FaceNet",
    "facenet_pytorch": "facenet-pytorch",
    "keras": "Keras",
    "pretrainedmodels": "Cadene's pretrainedmodels",
    "pytorch_fid": "pytorch-fid",
    "tf_slim": "TF-slim",
}
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options(page.Pages):
    """Compare networks with their original implementations."""

    results: Path | None = None
    """File of table rows. Rows in the file are not measured again; new rows are added."""
    only: tuple[str, ...] = ()
    """Measure only networks whose tag or runtime contains one of these words; default: all."""


def main(options: Options) -> None:
    """Compares networks with their original implementations, and prints the table.

    If the table has all networks, it is also written into docs/equivalence.md.
    """
    machine = page.machine("jax", "flax", "torch", "tensorflow-cpu", "tensorflow")
    rows: dict[str, Row] = _read(options.results)
    only = options.only or ("",)
    wanted = [p for p in PEERS if any(w in str(p) for w in only) and _is_open(p, rows)]
    # Each network has its own process, as settings of Keras and TensorFlow are per process.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = [(peer, pool.apply_async(_row, [str(peer)])) for peer in wanted]
        for peer, waiting in tqdm(found, unit=" networks"):
            try:
                row = waiting.get()
            except Exception as error:  # any code may fail; other networks are still measured
                tqdm.write(f"{peer}: {type(error).__name__}: {error}")
                continue
            rows[str(peer)] = {**rows.get(str(peer), {}), **row}
            tqdm.write(f"{peer}: {row}")
            if options.results is not None:
                with atomic_write(options.results) as partial:
                    partial.write_text(json.dumps(rows, indent=1))
    missing = [str(peer) for peer in PEERS if str(peer) not in rows]
    target = None if missing else options.docs / "equivalence.md"
    head = ["tag", "runtime", "images", *DTYPES]
    table = page.table(head, [_cells(peer, rows[str(peer)]) for peer in PEERS if str(peer) in rows])
    rest = ", ".join(f"`{tag}`" for tag in without_runtime()) or "none"
    page.publish(target, "peers", machine, table, f"Published tags without a runtime: {rest}.")
    if missing:
        sys.exit(f"the page was not written, because these are missing: {', '.join(missing)}")


def _read(path: Path | None) -> dict[str, Row]:
    return json.loads(path.read_text()) if path is not None and path.exists() else {}


def _is_open(peer: Peer, rows: dict[str, Row]) -> bool:
    """Returns whether a network still has to be measured in some dtype.

    OpenCV computes in one dtype only. A build of Caffe also computes in one dtype, so Caffe's two
    dtypes need two builds.

    Args:
        peer: the network's original implementation, as listed in `PEERS`.
        rows: results of `_row` so far, by TAG-RUNTIME.
    """
    expected = {"cv2": 1}.get(peer.runtime, 2)
    return len({*DTYPES} & {*rows.get(str(peer), {})}) < expected


def _row(name: str) -> Row:
    """Measures how much a network's logits differ from those of an original implementation.

    Args:
        name: tag of the network and runtime of the original implementation, as TAG-RUNTIME.

    Returns:
        A dict with the version of the original implementation under `version`. Each measured dtype
        has a list of differences, one for each image size.
    """
    warnings.simplefilter("ignore")  # warnings of the original implementations
    peer = next(peer for peer in PEERS if str(peer) == name)
    theirs = peer.build()
    row: Row = {"version": _version(peer.runtime)}
    with tempfile.TemporaryDirectory() as folder:
        path = theirs.write(Path(folder))[0]
        for dtype, _, distance in distances(peer, theirs, path):
            row[dtype] = [*row.get(dtype, []), distance]
    return row


def _version(package: str) -> str:
    module = library(package)
    return getattr(module, "__version__", None) or importlib.metadata.version(package)


def _cells(peer: Peer, row: Row) -> list[str]:
    version = row["version"].partition("+")[0]  # without the suffix of the build
    runtime = f"{NAMES.get(peer.runtime, peer.runtime)} {version}"
    sizes = ", ".join(f"{h}x{w}" for h, w in peer.sizes)
    measured = [f"{max(row[dtype]):.0e}" if dtype in row else "" for dtype in DTYPES]
    return [f"`{peer.tag}`", runtime, sizes, *measured]


if __name__ == "__main__":
    main(tyro.cli(Options))

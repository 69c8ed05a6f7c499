"""`inception-jax predict`: prints the most likely classes of images, and draws heat maps."""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from inception_jax import classes, images
from inception_jax.analysis import explain
from inception_jax.cli.arguments import positive_int
from inception_jax.cli.contact_sheet import contact_sheet
from inception_jax.create import model_of
from inception_jax.crops import as_input, crop_of
from inception_jax.folders import image_files
from inception_jax.inference.compiled import jit_predict
from inception_jax.nn.model import Model
from inception_jax.notes import Counts, printable
from inception_jax.outputs import atomic_write, check_target
from inception_jax.preprocessing import SEEN_AS_STORED, facts_of
from inception_jax.text_files import read_class_names

# A function of images that returns heat maps, or None if none are needed, and logits.
Look = Callable[[np.ndarray], tuple[jax.Array | None, jax.Array]]

_BATCH = 16
_ON_SHEET = 400  # pictures, on a page of some 4500 x 4300 pixels
# Suffixes of pictures that can be written.
_PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most likely classes of one image.

    Attributes:
        path: path of the image.
        best: indices of the classes, the most likely first.
        scores: probabilities of these classes.
        seen: crop of the image that the network saw.
        heated: crop overlaid with its heat map; None without `--explain`.
    """

    path: Path
    best: list[int]
    scores: list[float]
    seen: Image.Image
    heated: Image.Image | None


EXAMPLES = """
inception-jax predict cat.jpg --arch inception_v3.tf_in1k
inception-jax predict photos/ --weights runs/xception-fashion_mnist --csv table.csv
inception-jax predict cat.jpg --weights runs/xception-fashion_mnist --explain heat.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file, or folder of them")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weight file, or folder of a training run; default: the published weights of --arch",
    )
    parser.add_argument(
        "--arch", metavar="NAME", help="network.tag; needed if the file does not name it"
    )
    parser.add_argument(
        "--top",
        type=positive_int,
        default=5,
        metavar="N",
        help="number of classes to show; default: 5",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="file with the names of the classes, one per line, or a .csv with a column `class`, "
        "such as classes.csv of a training run; default: the names in the weight file",
    )
    parser.add_argument("--csv", metavar="FILE", help="write a table of all predictions")
    parser.add_argument("--sheet", metavar="FILE", help="write a contact sheet of all images")
    parser.add_argument(
        "--explain",
        metavar="FILE",
        help="write a Grad-CAM heat map of the most likely class; a contact sheet for several "
        "images",
    )
    parser.add_argument(
        "--stage",
        help="stage whose feature map is used for the heat map, see `inception-jax info`; "
        "default: the last",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the most likely classes of each image; for a folder, one line per image."""
    paths, from_folder, passed_over = _files(args.images)
    paths = _without_pictures(paths, args) if from_folder else paths
    _check(args, [] if from_folder else paths)
    model = model_of(args.arch, args.weights)
    facts_of(model)  # raises if the network does not take pictures
    names = _names(args, model)
    tally, notes = _Tally(names), Counts()
    predictions = _predict(model, args, paths, notes, skip_broken=from_folder)
    if args.csv:
        predictions = _with_table(predictions, Path(args.csv), names)
    shown, count = _first(predictions, names, tally, as_table=from_folder)
    for line in notes.lines():
        why = f"; {SEEN_AS_STORED}" if line.startswith(images.EXIF_IGNORED) else ""
        print(f"note: {line}{why}", file=sys.stderr)
    if not count:
        raise ValueError(f"none of {len(paths)} files is a readable image")
    if from_folder:
        print(tally)
        total = len(paths) + passed_over.total
        if count < total:
            print(_unread(total, len(paths) - count, passed_over))
    if args.csv:
        print(f"wrote {args.csv}")
    if args.sheet:
        _write_picture(args.sheet, shown, [p.seen for p in shown], names)
    if args.explain:
        _write_picture(args.explain, shown, [p.heated for p in shown if p.heated], names)
    if (args.sheet or args.explain) and len(shown) < count:
        print(f"note: the picture shows the first {len(shown)} of {count} images", file=sys.stderr)
    return 0


def _files(arguments: Sequence[str]) -> tuple[list[Path], bool, Counts]:
    """Returns image paths, whether any argument is a folder, and counts of the skipped files."""
    files: list[Path] = []
    passed_over = Counts()
    for path in map(Path, arguments):
        if not path.is_dir():
            files.append(path)
            continue
        listing = image_files(path)
        if not listing.images:
            instead = f"; skipped: {listing.passed_over}" if listing.passed_over.total else ""
            raise ValueError(
                f"there is no image in {printable(path)}: none of "
                f"{', '.join(images.EXTENSIONS)}{instead}"
            )
        files += sorted(map(Path, listing.images))
        passed_over.update(listing.passed_over)
    return files, any(Path(argument).is_dir() for argument in arguments), passed_over


def _unread(total: int, broken: int, passed_over: Counts) -> str:
    """Returns a message with the number of files without a prediction, and the reasons.

    Args:
        total: number of all files.
        broken: number of images that cannot be read.
        passed_over: counts of the skipped files.
    """
    reasons = [f"{broken} cannot be read"] if broken else []
    reasons += [f"skipped: {passed_over}"] if passed_over.total else []
    count = broken + passed_over.total
    return f"{count} of {total} files have no prediction: {'; '.join(reasons)}"


def _without_pictures(paths: Sequence[Path], args: argparse.Namespace) -> list[Path]:
    """Returns the paths, except those of `--sheet` and `--explain`.

    An earlier run may have written these pictures into the folder that is read.

    Raises:
        ValueError: if no path is left.
    """
    # Not `Path.resolve`, which raises for a link to itself.
    written = [os.path.realpath(path) for path in (args.sheet, args.explain) if path]
    left = [path for path in paths if os.path.realpath(path) not in written]
    if not left:
        raise ValueError(f"the only image in {', '.join(args.images)} is the sheet itself")
    return left


def _check(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    """Checks the arguments and the images at `paths`, before the weights are downloaded.

    The images are read only to find damaged ones.

    Raises:
        ValueError: if an output file cannot be written, an image is damaged, or `--stage` is given
            without `--explain`.
        OSError: if an image cannot be opened.
    """
    for path in (args.sheet, args.explain):
        if path:
            check_target(path, _PICTURES, what="pictures")
    if args.csv:
        check_target(args.csv)
    for path in paths:
        images.read(path)
    if args.stage and not args.explain:
        raise ValueError("--stage selects the feature map of --explain FILE, which is missing")


class _Tally:
    """Counts the predictions of each class, and those that match the name of the image's folder.

    `str` gives the text to print: a line for each predicted class, the most frequent first, and a
    line with the share of matches if any folder is named after a class.

    Args:
        names: class names, in the order of the outputs.
    """

    def __init__(self, names: Sequence[str]):
        self._names = names
        self._finder = classes.Finder(names)
        self._counts: collections.Counter[str] = collections.Counter()
        self._named, self._right = 0, 0

    def add(self, path: Path, index: int) -> None:
        """Counts a prediction.

        Args:
            path: path of the image. If the name of its folder stands for exactly one class, this
                class is the image's label.
            index: index of the predicted class.
        """
        self._counts[self._names[index]] += 1
        label = self._finder.find(path.parent.name)
        if len(label) == 1:
            self._named += 1
            self._right += index in label

    def __str__(self) -> str:
        lines = [f"{count:6}  {printable(name)}" for name, count in self._counts.most_common()]
        if self._named:
            share = self._right / self._named
            lines.append(
                f"{self._right} of {self._named} images ({share:.2%}) are predicted as the class "
                "that their folder is named after"
            )
        return "\n".join(lines)


def _names(args: argparse.Namespace, model: Model) -> Sequence[str]:
    if not args.classes:
        return classes.names(model)
    count = facts_of(model)[0].num_classes
    return read_class_names(args.classes, count)


def _predict(
    model: Model,
    args: argparse.Namespace,
    paths: Sequence[Path],
    notes: Counts,
    *,
    skip_broken: bool,
) -> Iterator[Prediction]:
    look = explain.grad_cam(model, stage=args.stage) if args.explain else _without_heat(model)
    size = min(_BATCH, len(paths))  # of every batch: another size would be compiled again
    starts = range(0, len(paths), size)
    for start in tqdm(starts, unit="batch", disable=True if len(starts) == 1 else None):
        seen = list(_seen(model, paths[start : start + size], notes, skip_broken=skip_broken))
        if seen:
            yield from _predict_batch(look, model, seen, size, args.top)


def _without_heat(model: Model) -> Look:
    logits = jit_predict(model)
    return lambda images: (None, logits(images))


def _predict_batch(
    look: Look, model: Model, seen: Sequence[tuple[Path, np.ndarray]], size: int, top: int
) -> Iterator[Prediction]:
    inputs = [as_input(pixels, facts_of(model)[0]) for _, pixels in seen]
    inputs += [np.zeros_like(inputs[0])] * (size - len(inputs))
    heat, logits = look(np.concatenate(inputs))
    scores = np.asarray(jax.nn.softmax(np.asarray(logits, np.float32)))
    for i, (path, pixels) in enumerate(seen):
        best = np.argsort(-scores[i], kind="stable")[:top]
        picture = Image.fromarray(np.uint8(np.round(pixels)).squeeze())
        heated = None if heat is None else explain.overlaid(picture, np.asarray(heat[i]))
        yield Prediction(path, best.tolist(), scores[i][best].tolist(), picture, heated)


def _seen(
    model: Model, paths: Sequence[Path], notes: Counts, *, skip_broken: bool
) -> Iterator[tuple[Path, np.ndarray]]:
    """Yields the path of each image and the crop that the network sees, [h, w, c] from 0 to 255.

    With `skip_broken`, images that cannot be read are skipped with a message. Notes on unusual
    images are added to `notes`.
    """
    info, channels = facts_of(model)
    for path in paths:
        try:
            picture = images.read(path, upright=info.upright)
        except (images.BadImageError, OSError) as error:
            if not skip_broken:
                raise
            tqdm.write(f"note: skipped: {printable(error)}", file=sys.stderr)
            continue
        for note in picture.notes:
            notes.add(note, path)
        yield path, crop_of(picture, info, channels)


def _with_table(
    predictions: Iterator[Prediction], path: Path, names: Sequence[str]
) -> Iterator[Prediction]:
    """Writes each prediction into the CSV file at `path`, then yields it.

    `names` are the class names, in the order of the outputs.
    An interrupted run keeps the rows that were written.
    """
    for first in predictions:  # no table is written if there are no predictions
        ranks = range(1, len(first.best) + 1)
        # Bytes of paths that are not UTF-8 are written unchanged.
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(["file", *(f"{what}_{i}" for i in ranks for what in ("class", "score"))])
            for p in itertools.chain([first], predictions):
                pairs = zip(p.best, p.scores, strict=True)
                table.writerow([p.path, *(x for i, s in pairs for x in (names[i], f"{s:.6f}"))])
                yield p


def _first(
    predictions: Iterator[Prediction], names: Sequence[str], tally: _Tally, *, as_table: bool
) -> tuple[list[Prediction], int]:
    """Prints all predictions; returns those that fit on a contact sheet, and the total number.

    `names` are the class names. `tally` counts the predictions. With `as_table`, each prediction is
    one line with the most likely class.
    """
    shown: list[Prediction] = []
    count = 0
    for prediction in predictions:
        count += 1
        best = prediction.best[0]
        tally.add(prediction.path, best)
        if as_table:
            path, score = printable(prediction.path), prediction.scores[0]
            tqdm.write(f"{path}  {printable(names[best])}  {score:.1%}")
        else:
            tqdm.write(_lines(prediction, names))
        if count <= _ON_SHEET:
            shown.append(prediction)
    return shown, count


def _lines(prediction: Prediction, names: Sequence[str]) -> str:
    pairs = zip(prediction.best, prediction.scores, strict=True)
    best = (f"  {100 * score:6.2f} %  {printable(names[index])}" for index, score in pairs)
    return "\n".join([printable(prediction.path), *best])


def _write_picture(
    path: str,
    predictions: Sequence[Prediction],
    pictures: Sequence[Image.Image],
    names: Sequence[str],
) -> None:
    if len(pictures) == 1:
        picture = pictures[0]
    else:
        texts = ((p.path.name, f"{p.scores[0]:.0%} {names[p.best[0]]}") for p in predictions)
        captions = [tuple(map(printable, lines)) for lines in texts]
        picture = contact_sheet(pictures, captions)
    with atomic_write(Path(path)) as partial:
        picture.save(partial)
    print(f"wrote {path}")

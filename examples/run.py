"""Runs the notebooks of this folder and stores their output in them.

    python examples/run.py [NAME ...]            # rewrites NAME.ipynb; without names, all notebooks
    python examples/run.py --small --to DIR      # takes seconds instead of minutes, for a test

Some cells have settings that decide how long a notebook takes. The metadata of such a cell has an
entry "small" with code. With --small, this code runs after the cell and overrides its settings. The
script needs `pip install -e ".[dev]"`.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
LONGEST = 1800  # seconds for a cell


def main() -> None:
    """Runs the notebooks that the command line names, or all notebooks."""
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"any of {', '.join(names)}; default: all")  # fmt: skip
    parser.add_argument("--small", action="store_true", help="run at small sizes, in seconds")
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="DIR",
                        help="folder to write to; default: this one")  # fmt: skip
    args = parser.parse_args()
    unknown = set(args.names) - set(names)
    if unknown:
        parser.error(f"no notebook {', '.join(sorted(unknown))}; there is {', '.join(names)}")
    if args.small and args.to.resolve() == FOLDER:
        parser.error("--small needs --to DIR: the notebooks here have the results at full size")
    os.environ["PYTHONPATH"] = str(FOLDER.parent)
    for name in args.names or names:
        print(name, flush=True)
        notebook = executed(FOLDER / f"{name}.ipynb", small=args.small)
        nbformat.write(notebook, args.to / f"{name}.ipynb")


def executed(path: Path, *, small: bool) -> nbformat.NotebookNode:
    """Runs a notebook; returns it with the output of its cells.

    Args:
        path: path of the notebook.
        small: whether to also run the code under "small" in a cell's metadata. It runs after the
            cell, and overrides the cell's settings so that the notebook takes seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails; the message has the cell's code and
            the error.
    """
    notebook = nbformat.read(path, as_version=4)
    whole = [cell.source for cell in notebook.cells]
    for cell in notebook.cells if small else []:
        if "small" in cell.metadata:
            cell.source += "\n" + cell.metadata["small"]
    # Times are not recorded, so that a rerun with the same results writes the same file.
    client = NotebookClient(
        notebook,
        timeout=LONGEST,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": FOLDER}},
    )
    client.execute()
    for cell, source in zip(notebook.cells, whole, strict=True):
        cell.source = source
        if cell.cell_type == "code":  # warnings name files of this machine
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                shrink(output)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def shrink(output: nbformat.NotebookNode) -> None:
    """Reduces the PNG picture of a cell's output to 128 colours, in place.

    This keeps the notebooks small, because git stores every version of them. A picture is unchanged
    if it would not have fewer bytes.
    """
    data = output.get("data", {})
    if "image/png" not in data:
        return
    small = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as picture:
        colours = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    colours.save(small, "PNG", optimize=True)
    encoded = base64.b64encode(small.getvalue()).decode() + "\n"
    if len(encoded) < len(data["image/png"]):
        data["image/png"] = encoded


if __name__ == "__main__":
    sys.exit(main())

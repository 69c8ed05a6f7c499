"""Trains a network: `python train/main.py --arch xception`. See `--help`."""

from __future__ import annotations

import sys
from pathlib import Path

# `python train/main.py` puts train/ on the path; the packages lie beside it.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

# Worker processes import this file too, and need nothing of what follows.
if __name__ == "__main__":
    try:
        from train.dispatch import main
    except ModuleNotFoundError as error:
        sys.exit(f"{error}. Install what training needs: pip install -e '.[train]'")
    sys.exit(main())

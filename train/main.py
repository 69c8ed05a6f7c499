"""Trains a network: `python train/main.py --arch xception`. See `--help`."""

from __future__ import annotations

import sys
from pathlib import Path

# `python train/main.py` puts train/ on the path; the packages lie beside it.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

# Worker processes import this file too, and need nothing of what follows.
if __name__ == "__main__":
    from inception_jax import extras
    from train.errors import UsageError
    from train.run import command_line

    try:
        command_line.given(sys.argv[1:])  # help and mistakes do not wait for jax
        from train.dispatch import main
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        print(f"error: {extras.missing(error, 'training')}", file=sys.stderr)
        sys.exit(1)
    sys.exit(main())

"""Trains a network: `python train/main.py --arch xception`. See `--help`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

# `python train/main.py` puts train/ on the path; the packages lie beside it.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

try:
    import inception_jax as ij
    from train import config, errors, loop
except ModuleNotFoundError as error:
    sys.exit(f"{error}. Install what training needs: pip install -e '.[train]'")


def main() -> int:
    """Runs the command line; returns the exit code."""
    try:
        result = loop.train_and_evaluate(config.parse(sys.argv[1:]))
    except loop.Preempted as stop:
        print(stop, file=sys.stderr)
        return 42
    except (errors.UsageError, ij.UnknownModelError, ij.WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (errors.TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Trains a network: `python train/main.py --arch xception`. See `--help`."""

from __future__ import annotations

import os
import signal
import sys

# The message for SIGTERM during the import of its handler.
_EARLY = b"SIGTERM before the first step: nothing is lost, the same command starts again\n"

# Worker processes also import this file, but do not need the code below.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: (os.write(2, _EARLY), os._exit(42)))
    # `python train/main.py` puts train/ on the path, but the packages are in the parent folder.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from train.ending import entry, last_line

    def _main() -> int:
        from inception_jax import extras
        from inception_jax.memory import keep_freed_memory
        from train.errors import UsageError
        from train.run import command_line

        try:
            command_line.given(sys.argv[1:])  # shows help and usage errors before jax loads
            keep_freed_memory()
            from train.dispatch import main
        except UsageError as error:
            last_line.say(f"error: {error}")
            return 2
        except ModuleNotFoundError as error:
            last_line.say(f"error: {extras.missing(error, 'training')}")
            return 1
        return main()

    sys.exit(entry.run(_main))

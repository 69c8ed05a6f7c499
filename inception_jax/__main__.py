"""Runs `python -m inception_jax` as the command `inception-jax`."""

import sys

from inception_jax.cli.commands import main

sys.exit(main())

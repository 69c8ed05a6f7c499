"""Runs `python -m inception_jax.cli` as `inception-jax`."""

import sys

from inception_jax.cli.commands import main

sys.exit(main())

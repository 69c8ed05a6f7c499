"""Runs `python -m inception_jax.cli` as `inception-jax`."""

import sys

from inception_jax.cli.program import main

sys.exit(main())

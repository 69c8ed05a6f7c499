"""A run: network, step, loop, evaluation, checkpoints."""

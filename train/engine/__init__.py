"""The parts of a run: network, training step, loop, evaluation, checkpoints."""

"""Trains and evaluates a network: optimiser, training step, loop, checkpoints and results."""

"""Data sets to batches; imports neither JAX nor a network."""
